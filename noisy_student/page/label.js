"use strict";
(() => {
  const { classes, images, labels: given, token } = JSON.parse(document.getElementById("given").textContent);
  const byId = (name) => document.getElementById(name);
  const named = new Set(classes.map((name) => name.toLowerCase()).filter((name) => /^[a-z0-9]$/.test(name)));
  const free = [..."1234567890abcdefghijklmnopqrstuvwxyz"].filter((key) => !named.has(key));
  // A class of one letter has that key, the others have those that are left, in order.
  const keys = classes.map((name) => (named.delete(name.toLowerCase()) ? name.toLowerCase() : free.shift()));
  const labels = new Map(Object.entries(given));
  let at = images.findIndex((image) => !labels.has(image.id));
  if (at < 0) at = images.length;
  let busy = false;

  const buttons = classes.map((name, place) => {
    const button = document.createElement("button");
    button.type = "button";
    if (keys[place]) {
      const key = document.createElement("kbd");
      key.textContent = keys[place];
      button.append(key);
    }
    const text = document.createElement("bdi");
    text.textContent = name;
    button.append(text);
    button.addEventListener("click", (event) => {
      if (event.detail) button.blur();  // pressed by a mouse: the next Enter is for the guess
      give(name);
    });
    byId("classes").append(button);
    return button;
  });

  async function send(id, label) {
    busy = true;
    try {
      const headers = { "Content-Type": "application/json", "X-Token": token };
      const answer = await fetch("/label", { method: "POST", headers, body: JSON.stringify({ id, label }) });
      if (!answer.ok) throw new Error(await answer.text());
      byId("trouble").textContent = "";
      return true;
    } catch (error) {
      const gone = error instanceof TypeError;
      byId("trouble").textContent = gone
        ? "The command has ended. All labels that were given are in corrections.csv; run it again to go on."
        : error.message;
      return false;
    } finally {
      busy = false;
    }
  }
  async function give(label) {
    if (busy || at >= images.length) return;
    if (!(await send(images[at].id, label))) return;
    labels.set(images[at].id, label);
    at += 1;
    show();
  }
  function skip() {
    if (busy || at >= images.length) return;
    at += 1;
    show();
  }
  async function undo() {
    if (busy || at === 0) return;
    const { id } = images[at - 1];
    if (labels.has(id) && !(await send(id, null))) return;
    labels.delete(id);
    at -= 1;
    show();
  }
  function show() {
    const image = images[at];
    byId("bar").value = at / images.length;
    byId("progress").textContent = `${labels.size} ${labels.size === 1 ? "label" : "labels"} given, ${images.length - at} images left`;
    byId("image").hidden = !image;
    [...buttons, byId("accept"), byId("skip")].forEach((each) => { each.disabled = !image; });
    byId("undo").disabled = at === 0;
    buttons.forEach((button, place) => button.classList.toggle("guess", image?.guess === classes[place]));
    if (!image) {
      byId("guess").textContent = "That was the last one. End the command with Ctrl-C, and run make repro to train with the labels.";
      return;
    }
    byId("image").src = image.picture;
    byId("image").alt = image.id;
    byId("guess").replaceChildren("The model guesses ", isolated(image.guess), ` (${Math.round(100 * image.confidence)} % sure).`);
  }
  function isolated(text) {
    const element = document.createElement("bdi");
    element.textContent = text;
    return element;
  }

  byId("image").addEventListener("load", (event) => event.target.classList.toggle("small", event.target.naturalWidth < 96));
  const actions = { accept: () => give(images[at]?.guess), skip, undo };
  Object.entries(actions).forEach(([name, act]) => byId(name).addEventListener("click", (event) => {
    if (event.detail) byId(name).blur();
    act();
  }));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest("button") && [" ", "Enter"].includes(event.key)) return;  // for that button
    const place = keys.indexOf(event.key.toLowerCase());  // of the class that has this key
    const act = { Enter: actions.accept, " ": skip, Backspace: undo }[event.key];
    if (!act && place < 0) return;
    event.preventDefault();
    if (act) act();
    else give(classes[place]);
  });
  show();
})();
