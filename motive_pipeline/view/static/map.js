// The clips on a plane: those near each other push the model the same way.

import { ask, send } from './api.js';
import { byId, counted, el, labelled, options } from './dom.js';
import { emit, labelOf, sentView, setView, state } from './state.js';

const AGAIN_MS = 3000;
const settings = { space: '', colour: '' };
let timer = 0;
let heard = null;
let drawAgain = null; // with other filters, in the frame that is there

export async function showMap() {
  const panel = byId('panel');
  const { meta } = state;
  clearTimeout(timer);
  if (drawAgain && byId('map')) return drawAgain();
  if (!meta.spaces.length) return panel.replaceChildren(el('p', { className: 'empty', text: 'No gradients are published yet. `motive rank` computes them.' }));
  if (!meta.has_plotly) return panel.replaceChildren(el('p', { className: 'empty', text: 'The map needs plotly, and is better with openTSNE: pip install "motive-pipeline[view]"' }));
  settings.space ||= meta.spaces[0];
  settings.colour ||= `mean_influence:${meta.lead}`;
  const columns = [...meta.columns.filter((column) => column.kind === 'number').map((column) => [column.key, column.label]),
    ...meta.queries.filter((query) => query.votes).map((query) => [`influence:${query.id}`, labelOf(`influence:${query.id}`)])];
  const space = options(el('select'), meta.spaces.map((name) => [name, { gradients: 'gradients', embeddings: 'flow or embeddings' }[name]]), settings.space);
  const colour = options(el('select'), columns, settings.colour);
  const note = el('p', { className: 'small soft', role: 'status' });
  const frame = el('iframe', { id: 'map', src: '/app/map.html', title: 'Map of the clips. Each point is a clip; the tab Clips lists the same ones.' });
  const ready = new Promise((go) => { listen(frame, { ready: go, drawn: () => frame.setAttribute('data-drawn', 'yes'), selected: select, clicked: openClip, failed: ({ text }) => { note.textContent = text; } }); });

  async function draw(known = '') {
    clearTimeout(timer);
    try {
      const [found] = await Promise.all([ask('/api/map', { v: meta.version, space: settings.space, colour: settings.colour, variant: state.view.variant || meta.lead, known, view: { ...sentView(), selection: '' } }), ready]);
      if (!frame.isConnected) return;
      if (!found.is_final) timer = setTimeout(() => draw(found.method), AGAIN_MS);
      if (!found.n) return;
      const style = getComputedStyle(document.documentElement);
      const [ink, accent] = ['--soft', '--accent'].map((name) => style.getPropertyValue(name).trim());
      const { x, y, n } = found;
      const colours = Float32Array.from(found.colour, (value) => value ?? NaN);
      const message = { what: 'draw', x: Float32Array.from(x), y: Float32Array.from(y), n: Int32Array.from(n), colour: colours, isSigned: settings.colour.includes('influence'), ink, accent, shape: settings.space + found.method };
      frame.contentWindow.postMessage(message, location.origin, [message.x, message.y, message.n, message.colour].map((array) => array.buffer));
      const method = found.method === 'tsne' ? 'Laid out by t-SNE of 50 principal components.' : 'The first two principal components.';
      const clips = n.length === meta.num_clips ? `${counted(n.length)} clips.` : `${counted(n.length)} of ${counted(meta.num_clips)} clips.`;
      note.textContent = `${clips} ${method}${found.is_final ? '' : ' A better layout is being computed.'} Draw round points to list them.`;
    } catch (error) {
      note.textContent = error.message;
      emit('problem', error.message, error);
    }
  }
  space.onchange = () => { settings.space = space.value; draw(); };
  colour.onchange = () => { settings.colour = colour.value; draw(); };
  panel.replaceChildren(el('div', { className: 'maptools' }, el('div', {}, ...labelled('Near means alike in', space)), el('div', {}, ...labelled('Colour', colour)), note), frame);
  drawAgain = draw;
  draw();
}

function listen(frame, acts) {
  if (heard) removeEventListener('message', heard);
  heard = (event) => { if (event.origin === location.origin && event.source === frame.contentWindow) acts[event.data?.what]?.(event.data); };
  addEventListener('message', heard);
}

const selected = (n) => send('/api/selection', { v: state.meta.version, n });

async function select({ n }) {
  try {
    const { selection } = await selected(n);
    emit('tab', 'clips');
    setView({ selection });
  } catch (error) { emit('problem', error.message, error); }
}

async function openClip({ n }) {
  try {
    const { selection } = await selected(n);
    const { rows } = await ask('/api/clips', { v: state.meta.version, view: { selection }, limit: 1 });
    if (rows.length) emit('open', rows[0]);
  } catch (error) { emit('problem', error.message, error); }
}
