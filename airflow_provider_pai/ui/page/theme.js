// Dark or light as Airflow's pages are: what the user chose there, or else what the system wants; followed live.

const system = matchMedia("(prefers-color-scheme: dark)");

export function follow(changed) {
  const apply = () => {
    const chosen = localStorage.getItem("theme");
    const dark = chosen === "dark" || (chosen !== "light" && system.matches);
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    changed();
  };
  addEventListener("storage", apply);
  system.addEventListener("change", apply);
  apply();
}
