// What the page computes of a tumour bed while it is drawn: the same as wsi_pipeline.bed.measure.
// Rings are lists of [x, y] in level-0 pixels; a ring within a ring is a hole.
const wsiBed = (() => {
  const SAMPLES = 2; // points along a cell's side, as in Python

  const closed = (ring) => {
    const first = ring[0], last = ring[ring.length - 1];
    return first[0] === last[0] && first[1] === last[1] ? ring : [...ring, first];
  };

  const edgesOf = (rings) => rings.flatMap((ring) => {
    const whole = closed(ring);
    return whole.slice(1).map((point, i) => [...whole[i], ...point]);
  });

  const crossing = (y, edges) => edges
    .filter(([, y0, , y1]) => (y0 <= y) !== (y1 <= y))
    .map(([x0, y0, x1, y1]) => x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    .sort((a, b) => a - b);

  // Shares of cells are summed over the cells that a bed covers.
  const sums = (rings, maps) => {
    const edges = edgesOf(rings), step = maps.cell / SAMPLES;
    let covered = 0, read = 0, cancer = 0;
    for (let row = 0; row < maps.rows * SAMPLES; row++) {
      const y = maps.y + (row + 0.5) * step;
      const at = crossing(y, edges);
      for (let pair = 0; pair + 1 < at.length; pair += 2) {
        const first = Math.max(0, Math.ceil((at[pair] - maps.x) / step - 0.5));
        const end = Math.min(maps.columns * SAMPLES, Math.ceil((at[pair + 1] - maps.x) / step - 0.5));
        for (let column = first; column < end; column++) {
          const cell = Math.floor(row / SAMPLES) * maps.columns + Math.floor(column / SAMPLES);
          covered += 1;
          if (maps.unread[cell]) continue;
          read += 1;
          if (maps.score[cell]) cancer += (maps.score[cell] - 1) / 250 * maps.tissue[cell] / 255;
        }
      }
    }
    return { covered, read, cancer };
  };

  const inRing = (x, y, ring) => crossing(y, edgesOf([ring])).filter((at) => at <= x).length % 2 === 1;

  const depth = (ring, rings) =>
    rings.filter((other) => other !== ring && inRing(ring[0][0], ring[0][1], other)).length;

  const area = (ring) => Math.abs(closed(ring).slice(1).reduce(
    (sum, [x, y], i) => sum + ring[i][0] * y - x * ring[i][1], 0)) / 2;

  const side = ([ax, ay], [bx, by], [cx, cy]) => (bx - ax) * (cy - ay) - (by - ay) * (cx - ax);

  const hull = (points) => {
    const sorted = [...points].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    const half = (list) => list.reduce((kept, point) => {
      while (kept.length > 1 && side(kept[kept.length - 2], kept[kept.length - 1], point) <= 0) kept.pop();
      kept.push(point);
      return kept;
    }, []);
    return [...half(sorted).slice(0, -1), ...half(sorted.reverse()).slice(0, -1)];
  };

  const extent = (rings) => {
    const points = hull(rings.flat());
    let longest = 0, along = [1, 0];
    for (const [ax, ay] of points) for (const [bx, by] of points) {
      const length = Math.hypot(bx - ax, by - ay);
      if (length > longest) [longest, along] = [length, [(bx - ax) / length, (by - ay) / length]];
    }
    const off = points.map(([x, y]) => y * along[0] - x * along[1]);
    return { longest, across: Math.max(...off) - Math.min(...off) };
  };

  const crosses = ([ax, ay, bx, by], [cx, cy, dx, dy]) =>
    side([ax, ay], [bx, by], [cx, cy]) * side([ax, ay], [bx, by], [dx, dy]) < 0 &&
    side([cx, cy], [dx, dy], [ax, ay]) * side([cx, cy], [dx, dy], [bx, by]) < 0;

  const tangled = (rings) => {
    const edges = edgesOf(rings);
    return edges.some((edge, i) => edges.slice(i + 1).some((other) => crosses(edge, other)));
  };

  const usable = (rings) => rings.filter((ring) => new Set(ring.map(String)).size > 2);

  return {
    usable,
    tangled,
    measure(rings, maps) {
      const mm = maps.mpp / 1000;
      const { covered, read, cancer } = sums(rings, maps);
      const signed = rings.reduce(
        (sum, ring) => sum + (depth(ring, rings) % 2 ? -1 : 1) * area(closed(ring)), 0);
      const { longest, across } = extent(rings);
      return {
        area_mm2: signed * mm * mm,
        longest_mm: longest * mm,
        across_mm: across * mm,
        coverage: covered ? read / covered : 0,
        cellularity: covered && read / covered >= maps.min_coverage ? cancer / read : null,
      };
    },
    geojson(rings, about) {
      const outer = rings.filter((ring) => depth(ring, rings) % 2 === 0);
      const polygons = outer.map((ring) => [ring, ...rings.filter((hole) =>
        depth(hole, rings) === depth(ring, rings) + 1 && inRing(hole[0][0], hole[0][1], ring))]);
      const whole = polygons.map((part) => part.map((ring) =>
        closed(ring.map(([x, y]) => [Math.round(x), Math.round(y)]))));
      return {
        type: "FeatureCollection",
        properties: { coordinates: "level-0 pixels from the file's (0, 0)", ...about },
        features: [{
          type: "Feature",
          geometry: { type: "MultiPolygon", coordinates: whole },
          properties: { objectType: "annotation", name: "Tumour bed",
            classification: { name: "Tumour bed", color: [0, 90, 60] }, source: "drawn" },
        }],
      };
    },
  };
})();
