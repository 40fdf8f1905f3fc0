# Sourced: hash_of PATH... prints a hash of all files there as they lie in the working tree, committed or not, but none that git ignores.
hash_of() {
  git ls-files -z --cached --others --exclude-standard -- "$@" | LC_ALL=C sort -z | while IFS= read -r -d '' file; do
    if [[ -f $file ]]; then printf '%s\0' "$file"; fi
  done | xargs -0 sha256sum | sha256sum | cut -d ' ' -f 1
}
