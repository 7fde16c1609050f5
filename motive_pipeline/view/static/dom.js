// Builds elements. Texts are always text: nothing here takes HTML.

export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith('aria-')) { node.setAttribute(name, value); continue; }
    if (value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'text') node.textContent = value;
    else if (name in node && !name.includes('-') && name !== 'list') node[name] = value;
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const byId = (id) => document.getElementById(id);

export function labelled(text, control) {
  control.id ||= `control-${labelled.next = (labelled.next || 0) + 1}`;
  return [el('label', { htmlFor: control.id, text }), control];
}

export function options(select, choices, chosen) {
  select.replaceChildren(...choices.map(([value, text]) => el('option', { value, text, selected: value === chosen })));
  return select;
}

export function shown(value, digits = 4) {
  if (value === null || value === undefined) return '–';
  if (typeof value !== 'number' || Number.isInteger(value)) return String(value);
  const text = Math.abs(value) >= 1000 ? value.toFixed(0) : value.toPrecision(digits);
  return text.replace('-', '−');
}

export const counted = (number) => number.toLocaleString('en');
