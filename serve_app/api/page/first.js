// Runs before the first paint: the remembered colours and language, so that neither flashes.
// Knows nothing else; the modules come later.
(function () {
  const root = document.documentElement;
  function remembered(name) {
    try {
      return localStorage.getItem(`plainmed-${name}`);
    } catch {
      return null; // a browser may refuse storage; the page does without
    }
  }
  const theme = remembered("theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  const chosen = remembered("language") || navigator.language || "en";
  root.lang = chosen.toLowerCase().startsWith("es") ? "es" : "en";
  if (root.lang !== "en") {
    // The document is written in English: it stays unseen until its messages are there.
    root.classList.add("pending");
    setTimeout(() => root.classList.remove("pending"), 3000);
  }
})();
