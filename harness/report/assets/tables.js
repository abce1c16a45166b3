// Long tables: sorted by their heads, filtered by words and by facets, opened row by row.
//
// All rows are in the file, so that it reads without scripts too. Here they are taken out, and only
// those that a reader can get to soon are put back: a filter then moves a hundred rows, not thousands.
(() => {
  'use strict';
  const STEP = 100;  // rows added when the end of the shown ones comes into sight
  const collator = new Intl.Collator('en', {numeric: true, sensitivity: 'base'});
  const number = count => count.toLocaleString('en-US');
  const made = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };

  function upgrade(table) {
    const body = table.tBodies[0], region = table.parentElement;
    const heads = [...table.tHead.rows[0].cells];
    const noun = table.dataset.noun || 'rows';
    const names = (table.dataset.facets || '').split(' ').filter(Boolean);
    const rows = [...body.rows].map((row, place) => ({
      row, place, text: row.textContent.toLowerCase(), detail: null,
      values: names.map(name => (row.dataset[name] || '').split('|').filter(Boolean)),
    }));
    region.classList.add('tall');
    region.tabIndex = 0;
    let order = rows, shown = rows, limit = STEP;

    // The rows that are shown, in steps.
    const more = made('button', {type: 'button'}, 'Show all');
    const rest = made('p', {class: 'rest'});
    region.append(rest);
    table.setAttribute('aria-rowcount', rows.length + 1);
    function draw() {
      body.replaceChildren(...shown.slice(0, limit).flatMap(
        ({row, detail}) => detail ? [row, detail] : [row]));
      rest.hidden = shown.length <= limit && shown.length > 0;
      if (!shown.length) rest.replaceChildren(`None of the ${number(rows.length)} ${noun} is left.`);
      else rest.replaceChildren(`The first ${number(limit)} of ${number(shown.length)}. `, more);
    }
    function grow(count) {
      if (limit >= shown.length) return;
      limit = Math.min(shown.length, count);
      draw();
    }
    more.addEventListener('click', () => { grow(shown.length); region.focus(); });
    new IntersectionObserver(entries => {
      if (entries.some(entry => entry.isIntersecting) && limit < shown.length) grow(limit + STEP);
    }, {root: region, rootMargin: '400px'}).observe(rest);

    // Words and facets.
    const count = made('output', {role: 'status', 'aria-live': 'polite'});
    // A page may bring the input itself.
    const search = document.getElementById(table.dataset.filter) || made('input', {
      type: 'search', placeholder: table.dataset.example || 'Filter', autocomplete: 'off',
      'aria-label': `Show only ${noun} with all of these words`,
    });
    const clear = made('button', {type: 'button'}, 'Clear');
    // One value that all rows have is nothing to choose from.
    const facets = names.map((name, index) => facet(name, index)).filter(one =>
      one.boxes.length > 1
      || (one.boxes.length && rows.some(({values}) => !values[one.index].length)));
    function facet(name, index) {
      const values = [...new Set(rows.flatMap(one => one.values[index]))].sort(collator.compare);
      const boxes = values.map(value => {
        const box = made('input', {type: 'checkbox'}), hits = made('span');
        box.value = value;
        const label = made('label', {}, box, value, hits);
        box.addEventListener('change', filter);
        return {value, box, hits, label};
      });
      const title = made('summary', {}, name);
      const group = made('fieldset', {}, made('legend', {class: 'hidden'}, name),
        ...boxes.map(one => one.label));
      const element = made('details', {class: 'facet', 'data-facet': name}, title, group);
      return {name, index, boxes, title, element, chosen: new Set()};
    }
    function filter() {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const one of facets) {
        one.chosen = new Set(one.boxes.filter(({box}) => box.checked).map(({value}) => value));
        one.element.classList.toggle('chosen', one.chosen.size > 0);
        one.title.textContent = one.chosen.size ? `${one.name}: ${[...one.chosen].join(', ')}`
          : one.name;
        one.hits = new Map();
      }
      shown = order.filter(({text, values}) => {
        if (!words.every(word => text.includes(word))) return false;
        const missed = facets.filter(
          one => one.chosen.size && !values[one.index].some(value => one.chosen.has(value)));
        // A value's count is what choosing it would show, so its own facet does not hold it back.
        for (const one of missed.length ? (missed.length === 1 ? missed : []) : facets)
          for (const value of values[one.index]) one.hits.set(value, (one.hits.get(value) || 0) + 1);
        return !missed.length;
      });
      for (const one of facets) for (const {value, hits, label} of one.boxes) {
        const found = one.hits.get(value) || 0;
        hits.textContent = number(found);
        label.classList.toggle('none', !found);
      }
      limit = STEP;
      count.textContent = shown.length === rows.length ? `${number(rows.length)} ${noun}`
        : `${number(shown.length)} of ${number(rows.length)}`;
      clear.hidden = !words.length && !facets.some(one => one.chosen.size);
      region.scrollTop = 0;
      draw();
    }
    search.addEventListener('input', filter);
    clear.addEventListener('click', () => {
      search.value = '';
      for (const one of facets) for (const {box} of one.boxes) box.checked = false;
      filter();
      search.focus();
    });
    document.addEventListener('click', event => {
      for (const {element} of facets) if (!element.contains(event.target)) element.open = false;
    });
    const controls = made('div', {class: 'controls', role: 'search'},
      search, ...facets.map(one => one.element), clear, count);
    controls.addEventListener('keydown', event => {
      const open = facets.find(one => one.element.open);
      if (event.key !== 'Escape' || !open) return;
      open.element.open = false;
      open.title.focus();
    });
    region.before(controls);

    // Heads sort: up, down, and back to the order of the file. What has no value stays last.
    const keys = new Map();
    function key(index, isNumber) {
      if (!keys.has(index)) keys.set(index, new Map(rows.map(one => {
        const cell = one.row.cells[index];
        if (!isNumber) return [one, cell.dataset.value ?? cell.textContent.trim()];
        const value = cell.dataset.value ?? '';
        return [one, value === '' ? NaN : Number(value)];
      })));
      return keys.get(index);
    }
    function sort(head, index) {
      const next = {ascending: 'descending', descending: null}[head.getAttribute('aria-sort')];
      const direction = next === undefined ? 'ascending' : next;
      for (const other of heads) other.removeAttribute('aria-sort');
      order = rows;
      if (direction) {
        head.setAttribute('aria-sort', direction);
        const isNumber = head.classList.contains('number'), value = key(index, isNumber);
        const sign = direction === 'descending' ? -1 : 1;
        order = [...rows].sort((a, b) => {
          const x = value.get(a), y = value.get(b);
          if (isNumber) {
            if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y) || a.place - b.place;
            return sign * (x - y) || a.place - b.place;
          }
          if (!x || !y) return !x - !y || a.place - b.place;
          return sign * collator.compare(x, y) || a.place - b.place;
        });
      }
      filter();
    }
    heads.forEach((head, index) => {
      const button = head.querySelector('button');
      if (button) button.addEventListener('click', () => sort(head, index));
    });

    // A row that has more to tell opens below itself; who fills it listens for `open-row`.
    const opened = rows.filter(({row}) => row.dataset.case !== undefined);
    for (const one of opened) {
      const cell = one.row.cells[0];
      const button = made('button', {type: 'button', 'aria-expanded': 'false'}, ...cell.childNodes);
      cell.append(button);
    }
    const byRow = new Map(opened.map(one => [one.row, one]));
    function toggle(one, isOpen) {
      const button = one.row.cells[0].querySelector('button');
      if (isOpen === (one.detail !== null)) return;
      button.setAttribute('aria-expanded', isOpen);
      if (!isOpen) {
        table.dispatchEvent(new CustomEvent('close-row', {detail: {cell: one.detail}}));
        one.detail.remove();
        one.detail = null;
        return;
      }
      const held = made('div', {class: 'held'});
      one.detail = made('tr', {class: 'detail'}, made('td', {colspan: heads.length}, held));
      one.row.after(one.detail);
      held.style.setProperty('--window', `${region.clientWidth - 28}px`);
      table.dispatchEvent(new CustomEvent('open-row',
        {detail: {number: Number(one.row.dataset.case), cell: held}}));
    }
    body.addEventListener('click', event => {
      const one = byRow.get(event.target.closest('tr'));
      // Who marks a text with the mouse wants to copy it.
      if (one && !String(getSelection())) toggle(one, one.detail === null);
    });
    // Someone else's wish to see one row: all filters go, since they may hide it.
    table.addEventListener('show-row', event => {
      const one = opened.find(({row}) => Number(row.dataset.case) === event.detail.number);
      if (!one) return;
      clear.click();
      limit = Math.max(limit, shown.indexOf(one) + 1);
      draw();
      toggle(one, true);
      one.row.scrollIntoView({block: 'center'});
      one.row.cells[0].querySelector('button').focus({preventScroll: true});
    });

    // Paper has no scrolling: all that the filter left is printed.
    let before = limit;
    addEventListener('beforeprint', () => { before = limit; limit = shown.length; draw(); });
    addEventListener('afterprint', () => { limit = before; draw(); });
    filter();
    region.classList.add('ready');
  }

  for (const table of document.querySelectorAll('table[data-sortable], table[data-long]')) upgrade(table);
})();
