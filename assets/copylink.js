// A button that copies the link to the current view, complete with the visitor's text, and one
// that opens the lecture view.

// How long Python may take to answer. Browsers allow the clipboard for 5 s after a click.
const ANSWER_MS = 4000;

function build(root) {
  const button = document.createElement("button");
  button.type = "button";
  const status = document.createElement("span");
  status.setAttribute("role", "status");
  const field = document.createElement("input");
  field.type = "text";
  field.readOnly = true;
  field.hidden = true;
  const present = document.createElement("button");
  present.type = "button";
  const label = document.createElement("span");
  const hint = document.createElement("span");
  hint.className = "hint";
  hint.setAttribute("role", "tooltip");
  hint.id = "hint";
  present.setAttribute("aria-describedby", "hint");
  present.append(label, hint);
  present.addEventListener("keydown", (event) => event.key === "Escape" && (hint.hidden = true));
  for (const start of ["focus", "pointerenter"]) present.addEventListener(start, () => (hint.hidden = false));
  root.append(button, status, field, present);
  return { button, status, field, present, label, hint };
}

/** The address of the app's root: everything before the page's own path. */
function base(path) {
  const here = window.location.pathname;
  return path && here.endsWith(`/${path}`) ? here.slice(0, -path.length) : here;
}

/** Whether the clipboard took it. Without HTTPS a browser offers none. */
function toClipboard(link) {
  if (!navigator.clipboard) return Promise.resolve(false);
  return navigator.clipboard.writeText(link).then(
    () => true,
    () => false,
  );
}

async function copy(root) {
  clearTimeout(root.heWaiting);
  root.heAsked = null;
  const { path, query, words, text_left_out } = root.heData;
  const { status, field } = root.heParts;
  const link = `${window.location.origin}${base(path)}${path}${query ? `?${query}` : ""}`;
  const copied = await toClipboard(link);
  field.value = link;
  field.hidden = copied;
  const sentence = copied ? words.copied : words.by_hand;
  status.textContent = text_left_out ? `${words.text_left_out} ${sentence}` : sentence;
  if (!copied) field.select();
}

/** Asks Python first: leaving the text box may just have sent a text that no link knows yet. */
function ask(root, setStateValue) {
  root.heAsked = Date.now();
  root.heWaiting = setTimeout(() => copy(root), ANSWER_MS);
  setStateValue("asked", root.heAsked);
}

export default function ({ data, parentElement, setStateValue, setTriggerValue }) {
  const root = parentElement;
  const parts = (root.heParts ??= build(root));
  const before = root.heData;
  root.heData = data;
  parts.button.textContent = data.words.copy;
  parts.button.onclick = () => ask(root, setStateValue);
  parts.label.textContent = data.words.present;
  parts.present.setAttribute("aria-label", data.words.present);
  parts.hint.textContent = data.words.present_hint;
  parts.present.onclick = () => {
    parts.present.blur(); // or the space bar would press it again, under the lecture view
    setTriggerValue("present", true);
  };
  parts.field.setAttribute("aria-label", data.words.copy);
  // A message about the previous view would be wrong beside the new one.
  if (before?.path !== data.path || before?.query !== data.query) {
    parts.status.textContent = "";
    parts.field.hidden = true;
  }
  if (root.heAsked && data.asked === root.heAsked) copy(root);
}
