// What only the browser can do for the whole document. It draws nothing.

const whenIdle = window.requestIdleCallback ?? ((job) => setTimeout(job, 60)); // Safari has none

/** Keeps the address bar on the current view without adding steps to the history. */
function showAddress(path, query) {
  // After a page switch the previous run may still be on screen; its query is not ours to write.
  const here = window.location.pathname.replace(/\/$/, "").split("/").pop();
  if (here !== path && !(path === "" && here === "start")) return;
  const current = new URLSearchParams(window.location.search);
  const wanted = new URLSearchParams(query);
  for (const name of ["embed", "embed_options"]) {
    for (const value of current.getAll(name)) wanted.append(name, value);
  }
  const search = wanted.toString();
  if (search !== current.toString()) {
    const address = window.location.pathname + (search ? `?${search}` : "") + window.location.hash;
    window.history.replaceState(window.history.state, "", address);
  }
}

/** Names the navigation as a landmark and marks the current page in it. */
function nameNavigation(label, path) {
  const navigation = document.querySelector(".st-key-he-nav");
  if (!navigation) return;
  navigation.setAttribute("role", "navigation");
  navigation.setAttribute("aria-label", label);
  for (const link of navigation.querySelectorAll("a")) {
    // The attribute, not the property: home is the empty string, which resolves to any page.
    const target = (link.getAttribute("href") ?? "").split("?")[0].split("/").pop();
    if (target === path) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** Does it now and whenever Streamlit draws the sidebar's links anew; returns how to stop. */
function keepNavigationNamed(label, path) {
  const observer = new MutationObserver(() => nameNavigation(label, path));
  const sidebar = document.querySelector("[data-testid=stSidebar]") ?? document.body;
  observer.observe(sidebar, { childList: true, subtree: true });
  nameNavigation(label, path);
  return () => observer.disconnect();
}

/** Moves an open definition left as far as the window's edge demands. */
function keepInside(word) {
  const tip = word?.querySelector(".he-tip");
  if (!tip) return;
  tip.style.translate = "none";
  const over = tip.getBoundingClientRect().right - (document.documentElement.clientWidth - 16);
  if (over > 0) tip.style.translate = `${-over}px`;
}

/** Escape hides the open definition until the pointer or the focus moves on. */
function tipsObeyEscape(signal) {
  const root = document.documentElement;
  const show = (event) => {
    delete root.dataset.heTips;
    keepInside(event.target.closest?.(".he-term, .he-badge"));
  };
  window.addEventListener(
    "keydown",
    (event) => {
      if (event.key === "Escape") root.dataset.heTips = "hidden";
    },
    { signal },
  );
  window.addEventListener("focusin", show, { signal });
  window.addEventListener("mouseover", show, { signal });
}

export default function ({ data, parentElement }) {
  // Called again with every change of data, without a clean-up in between.
  parentElement.heStop?.();
  const listening = new AbortController();
  const root = document.documentElement;
  if (root.lang !== data.lang) root.lang = data.lang; // written, it costs the whole page its styles
  whenIdle(() => !listening.signal.aborted && showAddress(data.path, data.query), { timeout: 200 });
  const leaveNavigation = keepNavigationNamed(data.navigation, data.path);
  tipsObeyEscape(listening.signal);
  // The page is complete: its frame was drawn after everything else.
  root.dataset.hePage = data.path || "start";
  parentElement.heStop = () => {
    listening.abort();
    leaveNavigation();
  };
  return parentElement.heStop;
}
