// What other settings would choose: the exact vote, counted by the viewer as `voted_ranking` counts it.

import { ask } from './api.js';
import { byId, counted, el, labelled, options } from './dom.js';
import { emit, setView, state } from './state.js';

const breakable = (name) => name.split('_').flatMap((part, place) => (place ? ['_', el('wbr'), part] : [part]));

export function buildSlider() {
  const { meta } = state;
  const root = byId('slider');
  if (!meta.variants.length) return root.remove();
  const settings = { variant: meta.lead, share: meta.share, percentile: meta.variants[0].percentile };
  const variant = options(el('select'), meta.variants.map(({ name }) => [name, name]), settings.variant);
  const share = el('input', { type: 'range', min: 0.001, max: 1, step: 0.001, value: settings.share, id: 'share' });
  const percentile = el('input', { type: 'range', min: 0, max: 99.5, step: 0.5, value: settings.percentile, id: 'percentile' });
  const shareShown = el('output', { htmlFor: 'share' });
  const percentileShown = el('output', { htmlFor: 'percentile' });
  const result = el('div', { 'aria-live': 'polite', id: 'choice' });
  const published = el('button', { text: 'As published', onclick: () => set({ share: meta.share, percentile: ofVariant().percentile }) });
  const ofVariant = () => meta.variants.find((each) => each.name === settings.variant);
  let latest = 0;

  function set(change) {
    Object.assign(settings, change);
    share.value = settings.share;
    percentile.value = settings.percentile;
    update();
  }

  async function update() {
    shareShown.textContent = `${(settings.share * 100).toFixed(1)} %`;
    percentileShown.textContent = String(settings.percentile);
    const own = latest += 1;
    const choice = { ...settings };
    try {
      const found = await ask('/api/choice', { v: meta.version, choice });
      if (own === latest) show(found, choice);
    } catch (error) { emit('problem', error.message, error); }
  }

  function show(found, choice) {
    const part = (arm, name, number) => el('td', {}, el('button', { text: counted(number), disabled: !number, 'aria-label': `Show ${number} clips: ${name} beside ${arm}`, onclick: () => setView({ choice: { ...choice, part: name, arm } }) }));
    result.replaceChildren(
      el('p', {}, el('span', { className: 'big', text: counted(found.num_chosen) }), ` of ${counted(found.num_pool)} clips `,
        el('button', { text: 'Show', onclick: () => setView({ choice: { ...choice, part: 'chosen' } }) })),
      el('p', { className: 'small soft', text: `The last one has ${found.last_votes} of ${ofVariant().queries} votes.` }),
      el('table', {}, el('thead', {}, el('tr', {}, ...['beside', 'both', 'new', 'gone'].map((text) => el('th', { scope: 'col', text })))),
        el('tbody', {}, ...found.arms.map((each) => el('tr', {}, el('th', { scope: 'row' }, ...breakable(each.arm)), el('td', { text: counted(each.both) }), part(each.arm, 'came', each.came), part(each.arm, 'went', each.went))))));
  }

  share.oninput = () => { settings.share = Number(share.value); update(); };
  percentile.oninput = () => { settings.percentile = Number(percentile.value); update(); };
  variant.onchange = () => set({ variant: variant.value, percentile: meta.variants.find((each) => each.name === variant.value).percentile });
  root.replaceChildren(
    el('h2', { text: 'If you chose otherwise' }),
    ...(meta.variants.length > 1 ? labelled('By the ranking of', variant) : []),
    el('div', { className: 'row' }, el('label', { htmlFor: 'share', text: 'Share of the pool' }), shareShown), share,
    el('div', { className: 'row' }, el('label', { htmlFor: 'percentile', text: 'Percentile of a vote' }), percentileShown), percentile,
    published, result,
    ...Object.entries(meta.selecting).map(([arm, wishes]) => el('p', { className: 'small soft', text: `This is the plain vote. The arm ${arm} also selects by: ${wishes.join('; ')}.` })),
    el('p', { className: 'small soft', text: 'To publish it: set subset.share and vote.percentile, then `motive run`.' }));
  update();
}
