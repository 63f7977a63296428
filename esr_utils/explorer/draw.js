// Draws answers, sweeps and cards from plain data. No library, nothing fetched: the same code serves the widget and
// the exported page.

const SVG = "http://www.w3.org/2000/svg";
const ARM_NAMES = { unsteered: "unsteered", steered: "steered", detectors_ablated: "steered, detectors ablated" };
const SERIES_COLOURS = { detectors: "#1f85c4", backtracking: "#d55e00", topicality: "#0a9a6e" };
const LATENT_COLOURS = ["#8a8a8a", "#b07aa1", "#c9931d"];
const RESTART = -1;
const MAX_LANES = 6;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function makeSvg(tag, attributes = {}) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const told = (value) => (value === null || value === undefined ? "not read" : Number(value.toPrecision(3)).toString());
const armName = (arm) => ARM_NAMES[arm] ?? (arm.startsWith("x ") ? `strength × ${arm.slice(2)}` : arm);
const numbers = (values) => values.filter((value) => value !== null);
const largest = (values) => numbers(values).reduce((most, value) => Math.max(most, Math.abs(value)), 0);

function largestOf(shown, name) {
  return largest(shown.answers.flatMap((answer) => answer.series[name] ?? []));
}

function colourOf(name, position) {
  return SERIES_COLOURS[name] ?? LATENT_COLOURS[position % LATENT_COLOURS.length];
}

function scoreLine(answer) {
  const scores = answer.attempts.map((attempt) => attempt.score);
  const parts = [];
  if (scores.length === 1) parts.push(`score ${told(scores[0])}`);
  if (scores.length > 1) parts.push(`${scores.length} attempts, scores ${scores.map(told).join(" → ")}`);
  if (answer.note) parts.push(answer.note);
  return parts.join("; ");
}

// Background of a token: orange for activation, and for topicality blue above zero and orange below.
function tint(value, most) {
  if (value === null || value === undefined || !most || !value) return "";
  const share = Math.min(1, Math.abs(value) / most);
  return `rgba(${value > 0 ? "var(--esr-high)" : "var(--esr-low)"}, ${(0.08 + 0.57 * share).toFixed(3)})`;
}

// One answer: its frame has a fixed height, so nothing moves while the text grows.
class Panel {
  constructor(arm, isSmall) {
    this.arm = arm;
    this.answer = null;
    this.spans = [];
    this.at = -1;
    this.scores = make("span", { class: "esr-scores" });
    this.text = make("div", { class: "esr-text", tabindex: "0", role: "group", "aria-label": `${armName(arm)}: answer` });
    this.readout = make("div", { class: "esr-readout", "aria-live": "polite" });
    this.lanes = make("div", { class: "esr-lanes" });
    this.root = make(
      "section",
      { class: isSmall ? "esr-panel esr-small" : "esr-panel", "aria-label": armName(arm), "data-arm": arm },
      make("header", {}, make("h3", {}, armName(arm)), this.scores),
      this.text,
      this.readout,
      this.lanes,
    );
    this.isSmall = isSmall;
    this.text.addEventListener("mouseover", (event) => this.pointAt(event.target.dataset?.i));
    this.text.addEventListener("keydown", (event) => this.onKey(event));
  }

  setText(text) {
    if (this.answer) this.clear();
    const isAtEnd = this.text.scrollTop + this.text.clientHeight >= this.text.scrollHeight - 4;
    this.text.textContent = text;
    if (isAtEnd) this.text.scrollTop = this.text.scrollHeight;
  }

  clear() {
    this.answer = null;
    this.spans = [];
    this.at = -1;
    for (const part of [this.text, this.lanes, this.scores, this.readout]) part.textContent = "";
  }

  setAnswer(answer, shown, colour) {
    const scroll = this.text.scrollTop;
    this.clear();
    this.answer = answer;
    this.scores.textContent = scoreLine(answer);
    answer.pieces.forEach((piece, i) => {
      const attempt = answer.attempt[i];
      if (answer.attempts.length > 1 && attempt !== RESTART && attempt !== answer.attempt[i - 1]) {
        this.text.append(make("span", { class: "esr-chip" }, `attempt ${attempt + 1}: ${told(answer.attempts[attempt].score)}`));
      }
      const kind = attempt === RESTART ? "esr-token esr-restart" : "esr-token";
      const span = make("span", { class: kind, "data-i": i }, piece);
      this.spans.push(span);
      this.text.append(span);
    });
    if (!answer.pieces.length) this.text.append(make("em", {}, "no text"));
    this.text.scrollTop = scroll;
    this.drawLanes(shown, colour);
    this.setColour(shown, colour);
  }

  setColour(shown, colour) {
    const most = largestOf(shown, colour);
    const values = this.answer.series[colour] ?? [];
    this.spans.forEach((span, i) => {
      span.style.backgroundColor = "";
      span.style.setProperty("--esr-tint", tint(values[i], most) || "transparent");
      span.title = this.tell(i);
    });
    if (this.isSmall) this.drawLanes(shown, colour);
  }

  drawLanes(shown, colour) {
    const names = this.isSmall ? [colour] : Object.keys(this.answer.series).slice(0, MAX_LANES);
    const length = Math.max(1, ...shown.answers.map((answer) => answer.pieces.length));
    this.lanes.textContent = "";
    this.cursors = [];
    names.forEach((name, position) => this.lanes.append(this.lane(name, position, length, largestOf(shown, name))));
  }

  lane(name, position, length, most) {
    const values = this.answer.series[name] ?? [];
    const isSigned = name === "topicality";
    const height = 30;
    const zero = isSigned ? height / 2 : height - 1;
    const y = (value) => zero - (value / (most || 1)) * (isSigned ? height / 2 - 1 : height - 2);
    const svg = makeSvg("svg", {
      viewBox: `0 0 ${length} ${height}`, preserveAspectRatio: "none", role: "img",
      "aria-label": `${name} over ${values.length} tokens, largest ${told(largest(values))}`,
    });
    this.answer.attempt.forEach((attempt, i) => {
      if (attempt === RESTART) svg.append(makeSvg("rect", { x: i, y: 0, width: 1, height, class: "esr-band" }));
    });
    svg.append(makeSvg("line", { x1: 0, x2: length, y1: zero, y2: zero, class: "esr-axis" }));
    const points = values.map((value, i) => (value === null ? null : `${i + 0.5},${y(value).toFixed(2)}`)).filter(Boolean);
    svg.append(makeSvg("polyline", { points: points.join(" "), class: "esr-line", stroke: colourOf(name, position) }));
    const cursor = makeSvg("line", { x1: -9, x2: -9, y1: 0, y2: height, class: "esr-cursor" });
    svg.append(cursor);
    this.cursors.push(cursor);
    svg.addEventListener("mousemove", (event) => {
      const box = svg.getBoundingClientRect();
      this.pointAt(Math.floor(((event.clientX - box.left) / box.width) * length));
    });
    const label = make("div", { class: "esr-lane-name" }, make("span", {}, name), make("span", {}, `${isSigned ? "±" : "to "}${told(most)}`));
    label.style.setProperty("--esr-line", colourOf(name, position));
    return make("div", { class: "esr-lane" }, label, svg);
  }

  tell(i) {
    const series = Object.entries(this.answer.series).map(([name, values]) => `${name} ${told(values[i])}`);
    return `${JSON.stringify(this.answer.pieces[i])} (token ${i + 1}): ${series.join(", ")}`;
  }

  pointAt(where) {
    const i = Number(where);
    if (where === undefined || !this.spans[i]) return;
    this.spans[this.at]?.classList.remove("esr-here");
    this.at = i;
    this.spans[i].classList.add("esr-here");
    this.readout.textContent = this.tell(i);
    for (const cursor of this.cursors) {
      cursor.setAttribute("x1", i + 0.5);
      cursor.setAttribute("x2", i + 0.5);
    }
  }

  onKey(event) {
    const last = this.spans.length - 1;
    const to = { ArrowRight: this.at + 1, ArrowLeft: this.at - 1, Home: 0, End: last }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    event.stopPropagation();
    this.pointAt(Math.max(0, Math.min(last, to)));
    const span = this.spans[this.at];
    const top = span.offsetTop - this.text.offsetTop;
    if (top < this.text.scrollTop || top > this.text.scrollTop + this.text.clientHeight - 24) this.text.scrollTop = top - 24;
  }
}

// Answers side by side with a choice of what colours the tokens.
class Answers {
  constructor(root, { isSmall = false, onColour = () => {} } = {}) {
    this.root = root;
    this.isSmall = isSmall;
    this.onColour = onColour;
    this.panels = [];
    this.shown = null;
    this.choice = make("select", { "aria-label": "colour tokens by" });
    this.choice.addEventListener("change", () => {
      this.setColour(this.choice.value);
      this.onColour(this.choice.value);
    });
    this.scale = make("span", { class: "esr-scale" });
    this.bar = make("div", { class: "esr-bar" }, make("label", {}, "colour tokens by ", this.choice), this.scale);
    this.grid = make("div", { class: isSmall ? "esr-strip" : "esr-grid" });
    this.title = make("h3", { class: "esr-title" });
    this.title.hidden = !isSmall;
    root.append(this.title, this.bar, this.grid);
    this.bar.style.visibility = "hidden";
  }

  setArms(arms) {
    if (this.panels.length === arms.length && this.panels.every((panel, i) => panel.arm === arms[i])) return;
    this.panels = arms.map((arm) => new Panel(arm, this.isSmall));
    this.grid.replaceChildren(...this.panels.map((panel) => panel.root));
  }

  setLive(live) {
    this.shown = null;
    this.setArms(live.arms);
    this.bar.style.visibility = "hidden";
    live.texts.forEach((text, i) => this.panels[i].setText(text));
  }

  setShown(shown, colour) {
    this.shown = shown;
    const names = Object.keys(shown.series);
    this.title.textContent = sweepTitle(shown.state);
    this.colour = names.includes(colour) ? colour : names[0];
    this.setArms(shown.answers.map((answer) => answer.arm));
    this.choice.replaceChildren(...names.map((name) => make("option", { value: name }, optionName(name, shown))));
    shown.answers.forEach((answer, i) => this.panels[i].setAnswer(answer, shown, this.colour));
    this.bar.style.visibility = "visible";
    this.setColour(this.colour);
  }

  setColour(colour) {
    if (!this.shown || !(colour in this.shown.series)) return;
    this.colour = colour;
    this.choice.value = colour;
    const most = told(largestOf(this.shown, colour));
    const isSigned = colour === "topicality";
    this.scale.replaceChildren(isSigned ? `−${most}` : "0", make("span", { class: isSigned ? "esr-ramp esr-signed" : "esr-ramp" }), most);
    for (const panel of this.panels) panel.setColour(this.shown, colour);
  }
}

function sweepTitle(state) {
  const picks = state.picks.filter((pick) => pick.strength).map((pick) => `latent ${pick.latent} at ${told(pick.strength)}`);
  return `sweep: ${state.prompt} (${picks.join(", ")}; seed ${state.seed})`;
}

function optionName(name, shown) {
  const described = shown.series[name];
  return described.length > 70 ? `${name}: ${described.slice(0, 67)}…` : `${name}: ${described}`;
}

function drawContext(context) {
  const most = Math.max(...context.acts);
  const line = make("p", { class: "esr-context" }, make("b", {}, told(most)), " ");
  context.tokens.forEach((token, i) => {
    const span = make("span", { class: "esr-token", title: `${JSON.stringify(token)} ${told(context.acts[i])}` }, token.replaceAll("\n", "↵"));
    span.style.setProperty("--esr-tint", tint(context.acts[i], most) || "transparent");
    line.append(span);
  });
  return line;
}

function drawHistogram(card) {
  const [edges, counts] = card.histogram;
  const fired = counts.reduce((sum, count) => sum + count, 0);
  const label = `fires on ${fired} of ${card.n_read} unsteered answer tokens`;
  if (!fired) return make("p", {}, label);
  const svg = makeSvg("svg", { viewBox: `0 0 ${counts.length} 40`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  const most = Math.max(...counts);
  counts.forEach((count, i) => {
    const height = count ? Math.max(1, (38 * count) / most) : 0;
    svg.append(makeSvg("rect", { x: i + 0.05, y: 40 - height, width: 0.9, height, class: "esr-column" }));
  });
  const axis = make("div", { class: "esr-ends" }, make("span", {}, told(edges[0])), make("span", {}, told(edges.at(-1))));
  return make("figure", {}, svg, axis, make("figcaption", {}, label));
}

function drawTokens(title, tokens) {
  const items = tokens.map(([token, logit]) => make("li", {}, make("code", {}, JSON.stringify(token)), ` ${told(logit)}`));
  return make("div", {}, make("h4", {}, title), make("ol", {}, ...items));
}

function drawNearest(card, onLatent) {
  const items = card.nearest.map(([latent, cosine, label]) => {
    const button = make("button", { type: "button", "aria-label": `show latent ${latent}` }, String(latent));
    button.addEventListener("click", () => onLatent(latent));
    return make("li", {}, button, ` ${told(cosine)} ${label}`);
  });
  return make("div", {}, make("h4", {}, "nearest by decoder cosine"), make("ul", {}, ...items));
}

function drawCard(root, card, onLatent) {
  const facts = [
    card.density === null ? "never fired in the corpus" : `fires on ${told(100 * card.density)}% of corpus tokens`,
    card.concreteness === null ? "" : `concreteness ${told(card.concreteness)}`,
    card.topics ? `topics: ${card.topics}` : "",
    card.calibrated === null ? "not calibrated" : `calibrated strength ${told(card.calibrated)} (relative ${told(card.relative)})`,
  ].filter(Boolean);
  const contexts = card.contexts.length ? card.contexts.map(drawContext) : ["none are kept for this latent"];
  root.replaceChildren(
    make("h3", {}, `latent ${card.latent}: ${card.label}`),
    make("p", { class: "esr-facts" }, facts.join(" · ")),
    make(
      "div",
      { class: "esr-columns" },
      make("div", { class: "esr-contexts" }, make("h4", {}, "strongest contexts"), ...contexts),
      make("div", {}, make("h4", {}, "activations"), drawHistogram(card)),
      drawTokens("top logits", card.top_logits),
      drawTokens("bottom logits", card.bottom_logits),
      drawNearest(card, onLatent),
    ),
  );
}

// ``swept`` is null where no sweep was made.
function drawPage(root, shown, swept) {
  root.textContent = "";
  root.classList.add("esr-view");
  new Answers(root).setShown(shown, shown.state.colour);
  if (!swept) return;
  const strip = make("div", {});
  root.append(strip);
  new Answers(strip, { isSmall: true }).setShown(swept, swept.state.colour);
}
