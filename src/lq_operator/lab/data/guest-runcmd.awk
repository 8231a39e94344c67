# The items of `runcmd:` in #cloud-config -> one shell command a line. Plain, quoted, flow-list and literal block (|) items.
function unquote(s,   q) {
  q = substr(s, 1, 1)
  if (q == "\"" && s ~ /"$/) { s = substr(s, 2, length(s) - 2); gsub(/\\"/, "\"", s); gsub(/\\\\/, "\\", s) }
  else if (q == "'" && s ~ /'$/) { s = substr(s, 2, length(s) - 2); gsub(/''/, "'", s) }
  return s
}
function shell_word(s) { gsub(/'/, "'\\''", s); return "'" s "'" }
function flow(s,   out, i, c, q, word, depth) {
  s = substr(s, 2, length(s) - 2); out = ""; word = ""; q = ""
  for (i = 1; i <= length(s); i++) {
    c = substr(s, i, 1)
    if (q != "") { word = word c; if (c == "\\" && q == "\"") { i++; word = word substr(s, i, 1) } else if (c == q) q = ""; continue }
    if (c == "\"" || c == "'") { q = c; word = word c; continue }
    if (c == ",") { out = out " " item(word); word = ""; continue }
    word = word c
  }
  return out " " item(word)
}
function item(w) { gsub(/^ +| +$/, "", w); return shell_word(unquote(w)) }
block && /^ *$/ { print ""; next }
block { match($0, /^ */); if (blockindent < 0) blockindent = RLENGTH; if (RLENGTH >= blockindent && RLENGTH > itemindent) { print substr($0, blockindent + 1); next } block = 0 }
/^runcmd:/ { on = 1; next }
on && /^[^ #-]/ { on = 0 }
on && /^ *- / {
  match($0, /^ */); itemindent = RLENGTH; s = $0; sub(/^ *- +/, "", s); sub(/ +$/, "", s)
  if (s ~ /^[|>][+-]?$/) { block = 1; blockindent = -1; next }
  if (s ~ /^\[.*\]$/) print flow(s); else print unquote(s)
}
