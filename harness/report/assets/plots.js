// Plots are drawn when they come near the screen: a page of thousands of cases opens at once.
(() => {
  'use strict';
  const NARROW = 500, PAPER = 700;  // pixels
  const CONFIG = {displaylogo: false, responsive: true};

  // A telephone has no room for margins, and no hand for a bar of tools.
  function fitted(layout, width) {
    if (width >= NARROW) return layout;
    return {
      ...layout,
      font: {...layout.font, size: 11},
      margin: {...layout.margin, l: 8, r: Math.min(layout.margin?.r ?? 8, 70)},
      legend: {...layout.legend, font: {size: 10}, maxheight: 0.22},
    };
  }

  function draw(figure) {
    if (figure.dataset.drawn || !window.Plotly) return;
    figure.dataset.drawn = 'yes';
    const target = figure.querySelector('.plot');
    const {data, layout} = JSON.parse(figure.querySelector('script').textContent);
    const width = target.clientWidth;
    Plotly.newPlot(target, data, fitted(layout, width),
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

  addEventListener('beforeprint', () => {
    start();
    for (const details of document.querySelectorAll('details.more')) details.open = true;
    for (const figure of figures) draw(figure);
    for (const plot of document.querySelectorAll('.js-plotly-plot'))
      Plotly.relayout(plot, {autosize: false, width: PAPER});
  });
  addEventListener('afterprint', () => {
    for (const plot of document.querySelectorAll('.js-plotly-plot'))
      Plotly.relayout(plot, {autosize: true, width: undefined});
  });
})();
