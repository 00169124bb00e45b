// Weights in whole percents that always sum to 100, and losses by weight. Numbers only.

export const METRICS = ["relevance", "factuality", "fkgl", "smog", "dale_chall"];

/** Shares `total` out in whole numbers, in proportion to `shares` (equally where all are 0). */
export function distribute(total, shares) {
  const sum = shares.reduce((a, b) => a + b, 0);
  const exact = shares.map((share) => (sum > 0 ? (total * share) / sum : total / shares.length));
  const whole = exact.map(Math.floor);
  const order = exact.map((value, index) => index);
  order.sort((a, b) => exact[b] - whole[b] - (exact[a] - whole[a]) || a - b);
  let rest = total - whole.reduce((a, b) => a + b, 0);
  for (const index of order) {
    if (rest <= 0) break;
    whole[index] += 1;
    rest -= 1;
  }
  return whole;
}

/** Five percents moved by hand. While one slider moves, the others keep the proportions they had
 * when it began to, so that moving it there and back changes nothing. */
export class Weights {
  constructor() {
    this.reset();
  }

  reset() {
    this.percents = METRICS.map(() => 100 / METRICS.length);
    this.mover = null;
    this.base = this.percents;
  }

  move(index, percent) {
    if (this.mover !== index) {
      this.mover = index;
      this.base = this.percents;
    }
    const value = Math.min(100, Math.max(0, Math.round(percent)));
    const others = this.base.filter((_, at) => at !== index);
    const rest = distribute(100 - value, others);
    rest.splice(index, 0, value);
    this.percents = rest;
  }

  get equal() {
    return this.percents.every((percent) => percent === this.percents[0]);
  }

  /** As the API takes them. */
  get fractions() {
    return this.percents.map((percent) => percent / 100);
  }
}

/** The parts of a loss: each metric's weight times its error. */
export const parts = (errors, fractions) =>
  METRICS.map((metric, index) => fractions[index] * errors[metric]);

/** Their sum, at most 1, as the server has it. */
export const lossOf = (errors, fractions) =>
  Math.min(1, parts(errors, fractions).reduce((a, b) => a + b, 0));
