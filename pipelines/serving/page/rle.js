// Masks as COCO's compressed run lengths: {size: [height, width], counts: "..."}, column by column, nothing first.

const known = new WeakMap(); // the runs of a mask, which is never changed

// base 32 with continuation and sign bits, each run from the third on a difference to the one two before
export function runsOf(mask) {
  if (known.has(mask)) return known.get(mask);
  const runs = [], text = mask.counts;
  for (let i = 0; i < text.length;) {
    let value = 0, shift = 0, more = true;
    while (more) {
      const code = text.charCodeAt(i++) - 48;
      value += (code & 31) * 2 ** shift;
      shift += 5;
      more = (code & 32) !== 0;
      if (!more && code & 16) value -= 2 ** shift;
    }
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  known.set(mask, runs);
  return runs;
}

// number of pixels
export function area(mask) {
  return runsOf(mask).reduce((sum, run, i) => sum + (i % 2 ? run : 0), 0);
}

// [left, top, right, bottom], the last two not included; all 0 for a mask without a pixel
export function bounds(mask) {
  const [height, width] = mask.size;
  let left = width, top = height, right = 0, bottom = 0, at = 0;
  runsOf(mask).forEach((run, i) => {
    if (i % 2 && run) {
      const first = Math.floor(at / height), last = Math.floor((at + run - 1) / height);
      left = Math.min(left, first);
      right = Math.max(right, last + 1);
      top = Math.min(top, first === last ? at % height : 0);
      bottom = Math.max(bottom, first === last ? (at + run - 1) % height + 1 : height);
    }
    at += run;
  });
  return right ? [left, top, right, bottom] : [0, 0, 0, 0];
}

// The mask on a grid of rows x columns, each the middle of its cell: only the part that holds it, row by row,
// as {left, top, width, height, inside}. Its cost is that of the part, so that a hundred small masks are cheap.
export function sample(mask, rows, columns) {
  const [height, width] = mask.size, runs = runsOf(mask), [x0, y0, x1, y1] = bounds(mask);
  const cell = (edge, side, cells) => Math.max(0, Math.ceil(edge * cells / side - .5));
  const left = cell(x0, width, columns), top = cell(y0, height, rows);
  const wide = cell(x1, width, columns) - left, high = cell(y1, height, rows) - top;
  const inside = new Uint8Array(wide * high);
  let run = 0, end = runs[0] ?? 0, before = -1;
  for (let x = 0; x < wide; x++) {
    const column = Math.floor((left + x + .5) * width / columns);
    for (let y = 0; y < high; y++) {
      if (column === before) {
        inside[y * wide + x] = inside[y * wide + x - 1];
        continue;
      }
      const at = column * height + Math.floor((top + y + .5) * height / rows);
      while (at >= end && run < runs.length - 1) end += runs[++run];
      inside[y * wide + x] = run % 2;
    }
    before = column;
  }
  return {left, top, width: wide, height: high, inside};
}
