// Draws a heatmap over an image, in the browser: opacity and colors change without a request.

import { h } from "./dom.js";

const STOPS = {
  jet: [[0, 0, 131], [0, 60, 170], [5, 255, 255], [255, 255, 0], [250, 0, 0], [128, 0, 0]],
  viridis: [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]],
  inferno: [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]],
};
export const COLORMAPS = Object.keys(STOPS);

function color(name, value) {
  const stops = STOPS[name];
  const at = Math.min(Math.max(value, 0), 1) * (stops.length - 1);
  const index = Math.min(Math.floor(at), stops.length - 2);
  return stops[index].map((from, channel) => from + (stops[index + 1][channel] - from) * (at - index));
}

/** The grid as a small image, one pixel a cell; the browser enlarges it smoothly. */
function cells(grid, colormap) {
  const [rows, columns] = grid.shape;
  const canvas = h("canvas", { width: columns, height: rows });
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  grid.values.flat().forEach((value, index) => {
    const [red, green, blue] = color(colormap, value);
    image.data.set([red, green, blue, 255], 4 * index);
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Draws the heatmap on a canvas that lies over the image. */
export function drawHeatmap(canvas, heatmap, colormap) {
  const scale = Math.min(1, 1600 / Math.max(heatmap.width, heatmap.height));
  canvas.width = Math.round(heatmap.width * scale);
  canvas.height = Math.round(heatmap.height * scale);
  const context = canvas.getContext("2d");
  const { x, y, width, height } = heatmap.region ?? { x: 0, y: 0, width: heatmap.width, height: heatmap.height };
  context.imageSmoothingQuality = "high";
  context.drawImage(cells(heatmap.grid, colormap), x * scale, y * scale, width * scale, height * scale);
}
