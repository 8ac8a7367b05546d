// Light or dark, decided before the first paint so that no wrong colours flash up: as was chosen
// last, else as the system says. A classic script and not a module: modules wait for the document.
(() => {
  const KEY = "poolwright-theme";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;

  function stored() {
    try {
      return localStorage.getItem(KEY) ?? "";
    } catch {
      return ""; // storage may be forbidden; then it is the system's
    }
  }

  function apply(choice) {
    root.dataset.choice = choice;
    root.dataset.theme = choice || (dark.matches ? "dark" : "light");
    document.dispatchEvent(new Event("theme"));
  }

  /** "light", "dark", or "" for the system's. */
  globalThis.chooseTheme = (choice) => {
    try {
      localStorage.setItem(KEY, choice);
    } catch {
      // it then holds until the page is left
    }
    apply(choice);
  };

  dark.addEventListener("change", () => apply(root.dataset.choice));
  addEventListener("storage", () => apply(stored()));
  apply(["light", "dark"].includes(stored()) ? stored() : "");
})();
