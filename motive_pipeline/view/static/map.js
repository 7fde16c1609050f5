// The clips on a plane: those near each other push the model the same way. Drawn by plotly, from its installed package.

import { ask, send } from './api.js';
import { byId, counted, el, labelled, options } from './dom.js';
import { emit, labelOf, setView, state } from './state.js';

const AGAIN_MS = 3000;
const settings = { space: '', colour: '' };
let timer = 0;

export async function showMap() {
  const panel = byId('panel');
  const { meta } = state;
  clearTimeout(timer);
  if (!meta.spaces.length) return panel.replaceChildren(el('p', { className: 'empty', text: 'No gradients are published yet. `motive rank` computes them.' }));
  if (!meta.has_plotly) return panel.replaceChildren(el('p', { className: 'empty', text: 'The map needs plotly: pip install "motive-pipeline[view]". The layout is better with openTSNE, which comes with it.' }));
  settings.space ||= meta.spaces[0];
  settings.colour ||= `mean_influence:${meta.lead}`;
  const columns = [...meta.columns.filter((column) => column.kind === 'number').map((column) => [column.key, column.label]),
    ...meta.queries.filter((query) => query.votes).map((query) => [`influence:${query.id}`, labelOf(`influence:${query.id}`)])];
  const space = options(el('select'), meta.spaces.map((name) => [name, { gradients: 'gradients', embeddings: 'flow or embeddings' }[name]]), settings.space);
  const colour = options(el('select'), columns, settings.colour);
  const note = el('p', { className: 'small soft', role: 'status' });
  const plot = el('div', { id: 'map', role: 'img', 'aria-label': 'Map of the clips. Each point is a clip. The list shows the same clips.' });
  space.onchange = () => { settings.space = space.value; draw(); };
  colour.onchange = () => { settings.colour = colour.value; draw(); };
  panel.replaceChildren(el('div', { className: 'maptools' }, el('div', {}, ...labelled('Near means alike in', space)), el('div', {}, ...labelled('Colour', colour)), note), plot);

  async function draw(quiet = false) {
    clearTimeout(timer);
    if (!quiet) note.textContent = 'Loading';
    try {
      const [found] = await Promise.all([ask('/api/map', { v: meta.version, space: settings.space, colour: settings.colour, variant: state.view.variant || meta.lead }), plotly()]);
      if (!plot.isConnected) return;
      await paint(plot, found);
      const method = found.method === 'tsne' ? 'Laid out by t-SNE of 50 principal components.' : 'The first two principal components.';
      note.textContent = `${counted(found.n.length)} clips. ${method}${found.is_final ? '' : ' A better layout is being computed.'} Draw round points to list them.`;
      if (!found.is_final) timer = setTimeout(() => draw(true), AGAIN_MS);
    } catch (error) { note.textContent = error.message; emit('problem', error.message, error); }
  }
  draw();
}

function plotly() {
  plotly.loaded ||= new Promise((ready, failed) => {
    document.head.append(el('script', { src: '/app/plotly.min.js', onload: ready, onerror: () => failed(new Error('plotly could not be loaded')) }));
  });
  return plotly.loaded;
}

async function paint(plot, found) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const values = found.colour.map((value) => (value === null ? NaN : value));
  const signed = settings.colour.includes('influence');
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value) || 0), 0);
  const middle = signed && values.some((value) => value < 0) ? { cmin: -largest, cmax: largest, colorscale: [[0, '#3b6ea8'], [0.5, '#b9bcb5'], [1, '#c2410c']] } : { colorscale: [[0, '#8fa3b8'], [1, '#c2410c']] };
  const trace = { type: 'scattergl', mode: 'markers', x: found.x, y: found.y, customdata: found.n, hoverinfo: 'none',
    marker: { color: values, size: found.n.length > 20000 ? 3 : 6, opacity: 0.85, colorbar: { thickness: 10, len: 0.6, outlinewidth: 0, tickfont: { color: colour('soft') } }, ...middle } };
  const axis = { visible: false, scaleanchor: undefined };
  const layout = { margin: { l: 4, r: 4, t: 4, b: 4 }, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', dragmode: 'lasso', hovermode: 'closest', xaxis: axis, yaxis: { ...axis, scaleanchor: 'x' }, showlegend: false, uirevision: settings.space + found.method, modebar: { color: colour('soft'), activecolor: colour('accent'), bgcolor: 'rgba(0,0,0,0)' } };
  const config = { displaylogo: false, responsive: true, scrollZoom: true, plotlyServerURL: '', showSendToCloud: false, modeBarButtonsToRemove: ['sendChartToCloud', 'toImage', 'select2d', 'autoScale2d'] };
  await window.Plotly.react(plot, [trace], layout, config);
  if (plot.hasHandlers) return;
  plot.hasHandlers = true;
  plot.on('plotly_selected', async (event) => {
    if (!event?.points?.length) return;
    try {
      const { selection } = await send('/api/selection', { v: state.meta.version, n: event.points.map((point) => point.customdata) });
      emit('tab', 'clips');
      setView({ selection });
    } catch (error) { emit('problem', error.message, error); }
  });
  plot.on('plotly_click', async (event) => {
    const [{ customdata }] = event.points;
    const { selection } = await send('/api/selection', { v: state.meta.version, n: [customdata] });
    const { rows } = await ask('/api/clips', { v: state.meta.version, view: { selection }, limit: 1 });
    if (rows.length) emit('open', rows[0]);
  });
}
