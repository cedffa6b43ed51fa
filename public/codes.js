// Buttons beside what a page shows only for a while: one prints the page, another copies what its `data-copy`, a selector,
// finds, each on a line of its own.

const WORDS = {
  copied: "Copied",
  failed: "This browser does not allow copying. Please select the text and copy it.",
};

for (const button of document.querySelectorAll(".print")) {
  button.addEventListener("click", () => window.print());
  button.hidden = false;
}

function offerCopy(button) {
  const line = document.createElement("span");
  line.className = "hint";
  line.setAttribute("role", "status");
  button.after(line);
  let timer;
  button.addEventListener("click", async () => {
    const texts = [...document.querySelectorAll(button.dataset.copy)].map((element) => element.textContent.trim());
    const copy = navigator.clipboard.writeText(texts.join("\n"));
    line.textContent = await copy.then(() => WORDS.copied, () => WORDS.failed);
    clearTimeout(timer);
    timer = setTimeout(() => (line.textContent = ""), 5000);
  });
  button.hidden = false;
}

if (navigator.clipboard) document.querySelectorAll("[data-copy]").forEach(offerCopy);
