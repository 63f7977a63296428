// The widget: everything it shows is in the model's traits, and all it ever sends are ``colour`` and ``wanted``.

function render({ model, el }) {
  const status = make("p", { class: "esr-status", role: "status" });
  const error = make("p", { class: "esr-error", role: "alert" });
  const card = make("div", { class: "esr-card" });
  const main = make("div", {});
  const strip = make("div", {});
  const root = make("div", { class: "esr-view" }, make("div", { class: "esr-said" }, status, error), card, main, strip);
  el.append(root);
  const send = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  const answers = new Answers(main, { onColour: (colour) => send("colour", colour) });
  const swept = new Answers(strip, { isSmall: true });
  const isThere = (value) => value && Object.keys(value).length > 0;
  const draw = {
    status: () => {
      status.textContent = model.get("status");
      status.hidden = !model.get("status");
    },
    error: () => {
      error.textContent = model.get("error");
      error.hidden = !model.get("error");
    },
    busy: () => root.setAttribute("aria-busy", String(model.get("busy"))),
    live: () => isThere(model.get("live")) && answers.setLive(model.get("live")),
    shown: () => isThere(model.get("shown")) && answers.setShown(model.get("shown"), model.get("colour")),
    colour: () => answers.setColour(model.get("colour")),
    strip: () => {
      strip.hidden = !isThere(model.get("strip"));
      if (!strip.hidden) swept.setShown(model.get("strip"), model.get("colour"));
    },
    card: () => {
      card.hidden = !isThere(model.get("card"));
      if (!card.hidden) drawCard(card, model.get("card"), (latent) => send("wanted", latent));
    },
    part: () => {
      main.hidden = status.parentElement.hidden = model.get("part") !== "answers";
    },
  };
  const names = Object.keys(draw);
  const handlers = names.map((name) => [`change:${name}`, () => draw[name]()]);
  for (const name of ["part", "status", "error", "busy", "strip", "card"]) draw[name]();
  if (isThere(model.get("shown"))) draw.shown();
  else draw.live(); // a tab that is opened while answers grow
  for (const [event, handler] of handlers) model.on(event, handler);
  return () => {
    for (const [event, handler] of handlers) model.off(event, handler);
  };
}

export default { render };
