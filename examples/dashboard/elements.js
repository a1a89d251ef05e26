// Makes elements. What others wrote becomes text nodes, never HTML.

export function element(tag, className = "", ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children); // strings become text nodes
  return node;
}

export function icon(status) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#${status}`);
  svg.setAttribute("class", `icon ${status}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}
