// Commands for a terminal, each with a button that copies it.

const COMMANDS = [
  `curl -N ${location.origin}/rows.ndjson`,
  `curl -N --limit-rate 100k -o rows.csv ${location.origin}/rows.csv`,
];

export function showCommands(list) {
  for (const command of COMMANDS) {
    const item = document.createElement("li");
    const code = document.createElement("code");
    code.textContent = command;
    item.append(code, copyButton(command));
    list.append(item);
  }
}

function copyButton(command) {
  const copy = document.createElement("button");
  copy.type = "button";
  copy.textContent = "Copy";
  copy.setAttribute("aria-label", `Copy: ${command}`);
  copy.hidden = !navigator.clipboard; // there is none on an insecure origin
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(command).then(
      () => (copy.textContent = "Copied"),
      () => (copy.textContent = "Not allowed"),
    );
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  return copy;
}
