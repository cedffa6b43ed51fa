// A button prints the codes, where there are scripts.

for (const button of document.querySelectorAll(".print")) {
  button.addEventListener("click", () => window.print());
  button.hidden = false;
}
