// A place for one file, usually a picture: drop it, click, press Enter, or paste. The file goes to Python once, as
// a trigger: as state, its megabytes would be sent again with every later interaction.

function build(root) {
  const button = document.createElement("button");
  button.type = "button";
  const title = document.createElement("span");
  title.className = "title";
  const hint = document.createElement("span");
  hint.className = "hint";
  button.append(title, hint);
  const status = document.createElement("p");
  status.setAttribute("role", "status");
  const input = document.createElement("input");
  input.type = "file";
  input.hidden = true;
  input.tabIndex = -1;
  root.append(button, status, input);
  return { button, title, hint, status, input };
}

function toBase64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

function say(parts, sentence, refused = false) {
  parts.status.textContent = sentence;
  parts.status.className = refused ? "refused" : "";
}

async function take(files, parts, data, send) {
  const { words, limit } = data;
  if (files.length === 0) return;
  const file = files[0];
  if (file.size > limit) {
    say(parts, words.too_large.replace("{size}", (file.size / 1e6).toFixed(1)), true);
    return;
  }
  say(parts, words.reading);
  try {
    // An empty file has no comma-separated content; Python says what is wrong with it.
    const content = file.size ? await toBase64(file) : "";
    say(parts, files.length > 1 ? words.several : file.name);
    send("file", { name: file.name, content });
  } catch {
    say(parts, words.failed, true);
  }
}

function listen(parts, data, send, signal) {
  const { button, input, title } = parts;
  const over = (active) => {
    button.classList.toggle("over", active);
    title.textContent = active ? data.words.release : data.words.title;
  };
  const on = (target, name, handler) => target.addEventListener(name, handler, { signal });
  on(button, "click", () => input.click());
  on(input, "change", () => {
    take([...input.files], parts, data, send);
    // Cleared, so that choosing the same file again is a change again.
    input.value = "";
  });
  on(button, "dragover", (event) => {
    event.preventDefault();
    over(true);
  });
  on(button, "dragleave", () => over(false));
  on(button, "drop", (event) => {
    event.preventDefault();
    over(false);
    take([...event.dataTransfer.files], parts, data, send);
  });
  // A picture dropped beside the zone would otherwise replace the whole app by itself.
  on(window, "dragover", (event) => event.preventDefault());
  on(window, "drop", (event) => event.preventDefault());
  on(document, "paste", (event) => {
    if (!data.accept.startsWith("image/")) return; // text is pasted into its box
    const pictures = [...(event.clipboardData?.files ?? [])].filter((f) => f.type.startsWith("image/"));
    if (pictures.length === 0) return;
    event.preventDefault();
    take(pictures, parts, data, send);
  });
}

export default function ({ data, parentElement, setTriggerValue }) {
  const parts = (parentElement.heParts ??= build(parentElement));
  parts.title.textContent = data.words.title;
  parts.hint.textContent = data.words.hint;
  parts.input.accept = data.accept;
  parts.input.setAttribute("aria-label", data.words.title);
  parentElement.heStop?.abort();
  const stop = (parentElement.heStop = new AbortController());
  listen(parts, data, setTriggerValue, stop.signal);
  return () => stop.abort();
}
