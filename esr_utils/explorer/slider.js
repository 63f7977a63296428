// A slider with marks: the browser's own range control, and a line of small texts under it.
// It sends ``value`` only when a reader moves it, so a value that was set elsewhere is never rounded.

const THUMB = 16; // pixels; the marks stand where the middle of the thumb would

function render({ model, el }) {
  const input = document.createElement("input");
  Object.assign(input, { type: "range", step: "any", className: "esr-range" });
  const marks = document.createElement("div");
  marks.className = "esr-marks";
  marks.setAttribute("aria-hidden", "true");
  const root = document.createElement("div");
  root.className = "esr-view esr-slider";
  root.append(input, marks);
  el.append(root);

  const mark = ([text, value]) => {
    const share = (value - model.get("low")) / (model.get("high") - model.get("low"));
    const made = document.createElement("span");
    made.className = "esr-mark";
    made.textContent = text;
    made.style.left = `calc(${THUMB / 2}px + (100% - ${THUMB}px) * ${share})`;
    return made;
  };
  const drawValue = () => {
    input.value = model.get("value");
    input.setAttribute("aria-valuetext", Number(model.get("value").toPrecision(6)).toString());
  };
  const drawScale = () => {
    const [low, high] = [model.get("low"), model.get("high")];
    [input.min, input.max, input.step] = [low, high, model.get("step") || "any"];
    input.disabled = low === high;
    marks.replaceChildren(...(low === high ? [] : model.get("marks").map(mark)));
    drawValue();
  };
  const drawName = () => input.setAttribute("aria-label", model.get("name"));
  input.addEventListener("input", () => {
    model.set("value", input.valueAsNumber);
    model.save_changes();
  });
  drawName();
  drawScale();
  const handlers = { "change:value": drawValue, "change:name": drawName };
  for (const name of ["low", "high", "step", "marks"]) handlers[`change:${name}`] = drawScale;
  for (const [event, handler] of Object.entries(handlers)) model.on(event, handler);
  return () => {
    for (const [event, handler] of Object.entries(handlers)) model.off(event, handler);
  };
}

export default { render };
