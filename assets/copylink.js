// A button that copies the link to the current view, complete with the visitor's text.

const APP = "[data-testid=stApp]";
const START_MS = 120; // in which a rerun that the click's own loss of focus asked for begins
const RUN_MS = 3000; // waited for such a rerun; browsers allow the clipboard 5 s after a click

function build(root) {
  const button = document.createElement("button");
  button.type = "button";
  const status = document.createElement("span");
  status.setAttribute("role", "status");
  const field = document.createElement("input");
  field.type = "text";
  field.readOnly = true;
  field.hidden = true;
  root.append(button, status, field);
  return { button, status, field };
}

/** The address of the app's root: everything before the page's own path. */
function base(path) {
  const here = window.location.pathname;
  return path && here.endsWith(`/${path}`) ? here.slice(0, -path.length) : here;
}

/** Resolves once the app is idle: text typed but not yet sent is sent by the click itself. */
function idle() {
  const app = document.querySelector(APP);
  const quiet = () => !app || app.dataset.testScriptState !== "running";
  return new Promise((resolve) => {
    setTimeout(() => {
      if (quiet()) return resolve();
      const finish = () => {
        observer.disconnect();
        clearTimeout(limit);
        resolve();
      };
      const observer = new MutationObserver(() => quiet() && finish());
      observer.observe(app, { attributes: true });
      const limit = setTimeout(finish, RUN_MS);
    }, START_MS);
  });
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
  await idle();
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

export default function ({ data, parentElement }) {
  const root = parentElement;
  const parts = (root.heParts ??= build(root));
  const before = root.heData;
  root.heData = data;
  parts.button.textContent = data.words.copy;
  parts.button.onclick = () => copy(root);
  parts.field.setAttribute("aria-label", data.words.copy);
  // A message about the previous view would be wrong beside the new one.
  if (before?.path !== data.path || before?.query !== data.query) {
    parts.status.textContent = "";
    parts.field.hidden = true;
  }
}
