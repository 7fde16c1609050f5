// Draws the map in a frame of its own: plotly compiles its drawing code, which no other page of the viewer may do. It is given numbers and colours, and no text of others.

const plot = document.getElementById('map');
let numbers = []; // of the points, in their order
const tell = (message) => parent.postMessage(message, location.origin);

async function draw({ x, y, n, colour, isSigned, ink, accent, shape }) {
  const values = colour;
  numbers = n;
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value) || 0), 0);
  const hasBothSigns = isSigned && values.some((value) => value < 0);
  const scale = hasBothSigns
    ? { cmin: -largest, cmax: largest, colorscale: [[0, '#3b6ea8'], [0.5, '#b9bcb5'], [1, '#c2410c']] }
    : { colorscale: [[0, '#8fa3b8'], [1, '#c2410c']] };
  const trace = {
    type: 'scattergl', mode: 'markers', x, y, hoverinfo: 'none',
    marker: { color: values, size: n.length > 20000 ? 3 : 7, opacity: 0.85, colorbar: { thickness: 10, len: 0.6, outlinewidth: 0, tickfont: { color: ink } }, ...scale },
  };
  const layout = {
    margin: { l: 4, r: 4, t: 4, b: 4 }, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', dragmode: 'lasso', hovermode: 'closest', showlegend: false,
    xaxis: { visible: false }, yaxis: { visible: false, scaleanchor: 'x' }, uirevision: shape, modebar: { color: ink, activecolor: accent, bgcolor: 'rgba(0,0,0,0)' },
  };
  const config = { displaylogo: false, responsive: true, scrollZoom: true, plotlyServerURL: '', showSendToCloud: false, modeBarButtonsToRemove: ['sendChartToCloud', 'toImage', 'select2d', 'autoScale2d'] };
  await window.Plotly.react(plot, [trace], layout, config);
  if (!plot.hasHandlers) {
    plot.hasHandlers = true;
    plot.on('plotly_selected', (event) => { if (event?.points?.length) tell({ what: 'selected', n: event.points.map((point) => numbers[point.pointNumber]) }); });
    plot.on('plotly_click', (event) => tell({ what: 'clicked', n: [numbers[event.points[0].pointNumber]] }));
  }
  tell({ what: 'drawn' });
}

addEventListener('message', (event) => {
  if (event.origin === location.origin && event.source === parent && event.data?.what === 'draw') draw(event.data).catch((error) => tell({ what: 'failed', text: error.message }));
});
tell({ what: 'ready' });
