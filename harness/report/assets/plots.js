// Plots are drawn when they come near the screen: a page of thousands of cases opens at once.
(() => {
  'use strict';
  const NARROW = 500, PAPER = 700, LEGEND_ROW = 19;  // pixels
  const LETTER = 5, LEGEND_MARK = 40;  // pixels of a legend's entry
  const CONFIG = {displaylogo: false, responsive: true};

  // A telephone has no room for margins nor for three legend entries in a row.
  function fitted(layout, data, width) {
    if (width >= NARROW) return layout;
    const entries = layout.showlegend === false ? 0
      : data.filter(trace => trace.name && trace.showlegend !== false).length;
    const longest = Math.max(0, ...data.map(trace => (trace.name || '').length));
    // Labels of lying bars take half of the width, numbers of an axis a fifth.
    const room = width * (data.some(trace => trace.orientation === 'h') ? 0.5 : 0.8);
    const columns = 2 * (longest * LETTER + LEGEND_MARK) > room ? 1 : 2;
    const rows = Math.ceil(entries / columns);
    return {
      ...layout,
      height: layout.height + LEGEND_ROW * Math.max(0, rows - 1),
      font: {...layout.font, size: 11},
      margin: {...layout.margin, l: 8, r: Math.min(layout.margin?.r ?? 8, 90)},
      legend: {...layout.legend, font: {size: 10}, maxheight: 0.9,
        entrywidthmode: 'fraction', entrywidth: 0.98 / columns},
    };
  }

  function draw(figure) {
    if (figure.dataset.drawn || !window.Plotly) return;
    figure.dataset.drawn = 'yes';
    const target = figure.querySelector('.plot');
    const {data, layout} = JSON.parse(figure.querySelector('script').textContent);
    const width = target.clientWidth;
    const shown = fitted(layout, data, width);
    target.style.setProperty('--height', `${shown.height}px`);
    Plotly.newPlot(target, data, shown,
      {...CONFIG, displayModeBar: width < NARROW ? false : 'hover'});
    target.on('plotly_click', event => {
      const id = event.points[0]?.customdata?.[0];
      if (id !== undefined) dispatchEvent(new CustomEvent('show-case', {detail: {id}}));
    });
  }

  const figures = [...document.querySelectorAll('figure[data-plot]')];
  const observer = new IntersectionObserver(entries => {
    for (const entry of entries) if (entry.isIntersecting) {
      observer.unobserve(entry.target);
      draw(entry.target);
    }
  }, {rootMargin: '300px'});

  // The library takes longer to start than all else here, so it waits until the page is painted.
  function start() {
    const held = document.getElementById('plotly');
    if (!held || window.Plotly) return;
    const script = document.createElement('script');
    script.textContent = held.textContent;
    document.head.append(script);
    for (const figure of figures) observer.observe(figure);
  }
  addEventListener('load', () => requestAnimationFrame(() => setTimeout(start)));

  let closed = [];
  addEventListener('beforeprint', () => {
    start();
    closed = [...document.querySelectorAll('details.more:not([open])')];
    for (const details of closed) details.open = true;
    for (const figure of figures) draw(figure);
    for (const plot of document.querySelectorAll('.js-plotly-plot'))
      Plotly.relayout(plot, {autosize: false, width: PAPER});
  });
  addEventListener('afterprint', () => {
    for (const details of closed) details.open = false;
    for (const plot of document.querySelectorAll('.js-plotly-plot'))
      Plotly.relayout(plot, {autosize: true, width: undefined});
  });
})();
