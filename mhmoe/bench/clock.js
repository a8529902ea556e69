// The benches' clock, put into every page before its own scripts.
//
// A condition is {selector, count, text, key}: `count` (default: at least one) nodes match, the
// first of them containing `text`; `key` names the Streamlit element in whose shadow root to look.

(() => {
  const roots = new Map();

  /** The shadow root of a component, by the key it was mounted with. */
  function rootOf(key) {
    const known = roots.get(key);
    if (known?.host.isConnected) return known;
    const place = document.querySelector(`.st-key-${CSS.escape(key)}`);
    const found = [...(place?.querySelectorAll("*") ?? [])].find((node) => node.shadowRoot)?.shadowRoot;
    roots.set(key, found);
    return found ?? null;
  }

  function holds({ selector, count, text, key }) {
    const root = key ? rootOf(key) : document;
    const nodes = root ? root.querySelectorAll(selector) : [];
    if (count === undefined ? nodes.length === 0 : nodes.length !== count) return false;
    return text === undefined || nodes[0].textContent.includes(text);
  }

  /** Looks once a frame; resolves with the time when the frame that shows it all is painted. */
  function until(conditions) {
    return new Promise((resolve) => {
      const look = () => {
        if (!conditions.every(holds)) return requestAnimationFrame(look);
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = () => resolve(performance.now());
        port2.postMessage(null); // runs after this frame's style, layout and paint
      };
      requestAnimationFrame(look);
    });
  }

  const idleOnce = () => new Promise((resolve) => requestIdleCallback((left) => resolve(left.timeRemaining())));

  window.benchClock = {
    until,

    /** Milliseconds from the next such event to `conditions` are the clock's answer. */
    arm(event, conditions) {
      this.answer = new Promise((resolve) => {
        const begin = ({ timeStamp }) => until(conditions).then((end) => resolve(end - timeStamp));
        window.addEventListener(event, begin, { capture: true, once: true });
      });
    },

    /** Several free moments in a row: queued idle work has run, too. */
    async idle() {
      for (let free = 0; free < 5; ) free = (await idleOnce()) > 5 ? free + 1 : 0;
    },
  };
})();
