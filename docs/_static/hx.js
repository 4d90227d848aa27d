// Draws plotly figures and anywidgets from the JSON that docs/prep.py leaves in the page. No kernel, no CDN.
(() => {
  const base = document.currentScript.src.replace(/[^/]*$/, '');
  const json = el => JSON.parse(el.querySelector('script[type="application/json"]').textContent);
  const bytes = s => new DataView(Uint8Array.from(atob(s), c => c.charCodeAt(0)).buffer);
  const load = src => new Promise((ok, no) => { const s = document.createElement('script'); s.src = src; s.onload = ok; s.onerror = no; document.head.append(s); });
  let plotly;
  async function plot(el) {
    const { data, layout } = json(el);
    await (plotly ??= load(base + 'vendor/plotly.min.js'));
    await Plotly.newPlot(el, data, layout, { responsive: true, displaylogo: false });
  }
  async function widget(el) {
    const { state, buffers } = json(el), subs = {};
    for (const b of buffers) state[b.path[0]] = bytes(b.data);
    const model = { get: k => state[k], set: (k, v) => { state[k] = v; (subs['change:' + k] ?? []).forEach(f => f()); },
      save_changes() {}, send() {}, on: (e, f) => (subs[e] ??= []).push(f), off() {} };
    if (state._css) { const s = document.createElement('style'); s.textContent = state._css; document.head.append(s); }
    const url = URL.createObjectURL(new Blob([state._esm], { type: 'text/javascript' }));
    const w = (await import(url)).default;
    await w.initialize?.({ model }); await w.render({ model, el });
  }
  const seen = new IntersectionObserver(es => es.forEach(e => { if (e.isIntersecting) { seen.unobserve(e.target); (e.target.matches('.hx-plotly') ? plot : widget)(e.target); } }), { rootMargin: '400px' });
  addEventListener('DOMContentLoaded', () => document.querySelectorAll('.hx-plotly, .hx-widget').forEach(e => seen.observe(e)));
})();
