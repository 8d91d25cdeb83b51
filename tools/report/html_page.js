// The filters of the list of cases. They are in the address too, so that a view can be sent: #q=top1&verdict=FAIL
'use strict';
window.addEventListener('error', (event) => {
  document.documentElement.dataset.scriptError = event.message;
});
(() => {
  const form = document.getElementById('filters');
  if (!form) return;
  const search = document.getElementById('search');
  const component = document.getElementById('component');
  const shown = document.getElementById('shown');
  const buttons = [...form.querySelectorAll('[data-filter]')];
  const cases = [...document.querySelectorAll('.case')].map((row) => ({row, text: row.dataset.text.toLowerCase()}));

  function apply() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const pressed = buttons.filter((b) => b.getAttribute('aria-pressed') === 'true').map((b) => b.dataset.filter);
    let count = 0;
    for (const {row, text} of cases) {
      const matches = words.every((word) => text.includes(word)) &&
                      (!component.value || row.dataset.component === component.value) &&
                      (!pressed.length || pressed.includes(row.dataset.verdict));
      row.hidden = !matches;
      count += matches;
    }
    const what = shown.dataset.what || 'cases';
    shown.textContent = count === cases.length ? `${count} ${what}` : `${count} of ${cases.length} ${what}`;
    return pressed;
  }

  function changed() {
    const pressed = apply();
    const view = new URLSearchParams();
    if (search.value) view.set('q', search.value);
    if (pressed.length) view.set('verdict', pressed.join(','));
    if (component.value) view.set('component', component.value);
    history.replaceState(null, '', view.size ? `#${view}` : location.pathname + location.search);
  }

  /// False where the address holds no filters, as that of a section.
  function fromAddress() {
    const view = new URLSearchParams(location.hash.slice(1));
    if (!['q', 'verdict', 'component'].some((key) => view.has(key))) return false;
    search.value = view.get('q') || '';
    component.value = view.get('component') || '';
    const wanted = (view.get('verdict') || '').split(',');
    for (const button of buttons) button.setAttribute('aria-pressed', wanted.includes(button.dataset.filter));
    return true;
  }

  form.hidden = false;
  form.addEventListener('submit', (event) => event.preventDefault());
  search.addEventListener('input', changed);
  component.addEventListener('change', changed);
  for (const button of buttons)
    button.addEventListener('click', () => {
      button.setAttribute('aria-pressed', button.getAttribute('aria-pressed') !== 'true');
      changed();
    });
  document.addEventListener('keydown', (event) => {
    if (event.key === '/' && !/INPUT|SELECT|TEXTAREA/.test(document.activeElement.tagName)) {
      event.preventDefault();
      search.focus();
    } else if (event.key === 'Escape' && document.activeElement === search) {
      search.value = '';
      changed();
    }
  });
  window.addEventListener('hashchange', () => {
    if (!fromAddress()) return;
    apply();
    document.getElementById('cases').scrollIntoView();
  });
  fromAddress();
  apply();
})();
