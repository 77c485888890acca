// Formulas are delimited by \( \) and \[ \] by the time MathJax sees them.
window.MathJax = {
  tex: { inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]], processEscapes: true },
  options: { ignoreHtmlClass: ".*|", processHtmlClass: "arithmatex" },
};
document$.subscribe(() => window.MathJax.typesetPromise && window.MathJax.typesetPromise());
