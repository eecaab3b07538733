// An edit as a command for a shell. The key stays out of it.

/**
 * `seed` is the one that the server chose, so that the command makes the same picture again.
 * @param {import("./edit.js").Edit} edit
 * @param {string} address
 * @param {string} seed
 * @param {boolean} withKey
 */
export function curlOf(edit, address, seed, withKey) {
  const options = [
    ...(withKey ? ['-H "Authorization: Bearer $API_KEY"'] : []),
    ...edit.pictures.map(({ name }) => `-F ${quoted(`${edit.part}=@${filePart(name)}`)}`),
    ...(edit.mask ? ["-F mask=@mask.png"] : []),
    ...Object.entries({ ...edit.fields, seed }).map(([name, value]) => fieldOption(name, value)),
  ];
  return [`curl -sS ${quoted(address)}`, ...options].join(" \\\n  ");
}

/**
 * -F has meanings for a leading @, < or quote and for a semicolon; --form-string takes every text as it is.
 * @param {string} name
 * @param {string} value
 */
function fieldOption(name, value) {
  const option = /^[\p{L}\p{N}][^;]*$/u.test(value) ? "-F" : "--form-string";
  return `${option} ${quoted(`${name}=${value}`)}`;
}

/**
 * curl ends an unquoted file name at a comma or a semicolon.
 * @param {string} name
 */
function filePart(name) {
  return /[,;"\\]/.test(name) ? `"${name.replace(/["\\]/g, "\\$&")}"` : name;
}

/** @param {string} text */
function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
