// The samples of a case, drawn when its row is opened: in the order they were taken, and how often
// each time occurred. They are decoded then, and not before.
(() => {
  'use strict';
  const held = document.getElementById('samples');
  const table = document.getElementById('case-table');
  if (!held || !table) return;
  let cases = null;
  const all = () => cases ??= JSON.parse(held.textContent);
  const STEADY = '#0072B2', OUTLIER = '#E69F00', THROTTLED = '#D55E00', LINE = '#8a8f98';
  const BINS = 40;
  const GRID = 'rgba(128,128,128,0.22)';

  function decoded(one) {
    const bytes = Uint8Array.from(atob(one.samples), letter => letter.charCodeAt(0));
    return new Float32Array(bytes.buffer);
  }

  function figure(one, isNarrow) {
    const values = decoded(one), [low, high] = one.fence;
    const kinds = {
      steady: {color: STEADY, symbol: 'circle', x: [], y: [], text: []},
      outlier: {color: OUTLIER, symbol: 'diamond', x: [], y: [], text: []},
      throttled: {color: THROTTLED, symbol: 'x', x: [], y: [], text: []},
    };
    const shapes = [];
    let first = 0;
    const windows = one.windows.map(([count, isThrottled, state]) => {
      const window = {first, end: first + count, isThrottled, state};
      first += count;
      if (isThrottled) shapes.push({type: 'rect', xref: 'x', yref: 'paper', x0: window.first - 0.5,
        x1: window.end - 0.5, y0: 0, y1: 1, fillcolor: THROTTLED, opacity: 0.13, line: {width: 0},
        layer: 'below'});
      return window;
    });
    let place = 0;
    values.forEach((value, position) => {
      const number = position * one.every;
      while (place < windows.length && number >= windows[place].end) place += 1;
      const window = windows[place];
      const kind = window?.isThrottled ? kinds.throttled
        : value < low || value > high ? kinds.outlier : kinds.steady;
      kind.x.push(number);
      kind.y.push(value * one.scale);
      kind.text.push(window?.state ?? '');
    });
    const [bottom, top] = [one.low * one.scale, one.high * one.scale];
    shapes.push({type: 'rect', xref: 'x domain', yref: 'y', x0: 0, x1: 1, y0: bottom, y1: top,
      fillcolor: STEADY, opacity: 0.16, line: {width: 0}, layer: 'below'});
    shapes.push({type: 'line', xref: 'paper', yref: 'y', x0: 0, x1: 1, y0: one.median * one.scale,
      y1: one.median * one.scale, line: {color: LINE, width: 1, dash: 'dash'}});
    const data = [], view = sight(kinds, one);
    for (const [name, kind] of Object.entries(kinds)) {
      if (!kind.x.length) continue;
      data.push({type: 'scatter', mode: 'markers', name: `${name} (${kind.x.length})`, x: kind.x,
        y: kind.y, text: kind.text, marker: {color: kind.color, symbol: kind.symbol, size: 5},
        hovertemplate: `sample %{x}: %{y:.5~g} ${one.unit}<br>%{text}<extra></extra>`});
      data.push({type: 'histogram', y: kind.y, xaxis: 'x2', marker: {color: kind.color},
        ybins: bins(values, one, view), showlegend: false, hovertemplate: `%{y} ${one.unit}: %{x}<extra></extra>`});
    }
    const axis = {gridcolor: GRID, zeroline: false, linecolor: GRID, automargin: true};
    return [data, {
      height: isNarrow ? 300 : 320, margin: {l: 50, r: 8, t: 8, b: 44}, barmode: 'stack', shapes,
      paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', bargap: 0.05,
      font: {size: isNarrow ? 11 : 13, family: 'system-ui, sans-serif'},
      legend: {orientation: 'h', y: 1, yanchor: 'bottom', x: 0},
      xaxis: {...axis, domain: [0, isNarrow ? 0.68 : 0.78], title: {text: 'sample, in time'}},
      xaxis2: {...axis, domain: [isNarrow ? 0.72 : 0.8, 1], title: {text: 'how many'}},
      yaxis: {...axis, title: {text: one.unit}, ...view},
    }];
  }

  const least = values => values.reduce((a, b) => Math.min(a, b), Infinity);
  const most = values => values.reduce((a, b) => Math.max(a, b), -Infinity);

  function bins(values, one, view) {
    const finite = values.filter(Number.isFinite);
    const ends = view.range ?? [least(finite) * one.scale, most(finite) * one.scale];
    const size = (ends[1] - ends[0]) / BINS;
    return size > 0 ? {start: ends[0], end: ends[1] + size, size} : undefined;
  }

  function inner(values) {
    const ordered = [...values].sort((a, b) => a - b), cut = Math.ceil(ordered.length / 20);
    return ordered.slice(cut, -cut);
  }

  // A single stall must not flatten all others: it lies outside until a double click. Throttled
  // samples are a level of their own, so they stay in sight.
  function sight(kinds, one) {
    const [low, high] = one.fence.map(end => end * one.scale), reach = (high - low) / 2;
    const level = [...kinds.steady.y, ...inner(kinds.throttled.y)].filter(Number.isFinite);
    const outliers = [...kinds.outlier.y, ...kinds.throttled.y].filter(Number.isFinite);
    if (!level.length || !(reach > 0)) return {};
    const bottom = least(level) - reach, top = most(level) + reach;
    return outliers.some(value => value < bottom || value > top) ? {range: [bottom, top]} : {};
  }

  function numFar(one, layout) {
    if (!layout.yaxis.range) return 0;
    const [bottom, top] = layout.yaxis.range.map(end => end / one.scale);
    return decoded(one).filter(value => value < bottom || value > top).length;
  }

  const made = (name, text, kind = '') => {
    const element = document.createElement(name);
    element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };

  table.addEventListener('open-row', ({detail: {number, cell}}) => {
    const one = all()[number];
    if (one.samples && window.Plotly) {
      const figureElement = document.createElement('figure'), target = document.createElement('div');
      figureElement.setAttribute('role', 'figure');
      figureElement.setAttribute('aria-label', one.summary);
      figureElement.append(target);
      const isNarrow = innerWidth < 600;
      cell.append(figureElement);
      const [data, layout] = figure(one, isNarrow);
      Plotly.newPlot(target, data, layout,
        {displaylogo: false, responsive: true, displayModeBar: isNarrow ? false : 'hover'});
      const far = numFar(one, layout);
      const notes = [one.summary];
      if (far) notes.push(`${far} far outside of what is drawn: a double click shows all.`);
      cell.append(made('p', notes.join(' '), 'note'));
    } else {
      cell.append(made('p', one.summary, 'note'));
    }
    const facts = document.createElement('dl');
    for (const [name, value] of one.facts) facts.append(made('dt', name), made('dd', value));
    cell.append(facts);
  });
  table.addEventListener('close-row', ({detail: {cell}}) => {
    for (const plot of cell.querySelectorAll('.js-plotly-plot')) Plotly.purge(plot);
  });
  // A mark of a plot leads to its case.
  const plain = text => new DOMParser().parseFromString(text, 'text/html').documentElement.textContent;
  addEventListener('show-case', ({detail: {id}}) => {
    const number = all().findIndex(one => one.id === plain(id));
    if (number >= 0) table.dispatchEvent(new CustomEvent('show-row', {detail: {number}}));
  });
})();
