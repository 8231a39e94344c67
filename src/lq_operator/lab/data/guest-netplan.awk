# Netplan v2 (block or simple flow style) -> lines "addr MAC-or-NAME CIDR", "gw MAC-or-NAME IP", "dhcp MAC-or-NAME", "mtu MAC-or-NAME N",
# "dns IP".
# Enough for what a controller writes; not a YAML parser.
function clean(s) { gsub(/[]["'{},]/, " ", s); gsub(/^ +| +$/, "", s); return s }
function flush_nic(  i, who) {
  if (nic == "") return
  who = mac != "" ? tolower(mac) : nic
  for (i = 0; i < na; i++) print "addr", who, addr[i]
  if (gw != "") print "gw", who, gw
  if (dhcp) print "dhcp", who
  if (mtu != "") print "mtu", who, mtu
  nic = ""; mac = ""; mtu = ""; gw = ""; dhcp = 0; na = 0
}
function take(list, what,   parts, n, i) {
  n = split(clean(list), parts, " ")
  for (i = 1; i <= n; i++) if (what == "addr") addr[na++] = parts[i]; else print "dns", parts[i]
}
{
  line = $0; sub(/[ \t]+#.*$/, "", line)
  if (line ~ /^[ \t]*(#|$)/) next
  match(line, /^ */); indent = RLENGTH
  text = substr(line, indent + 1)
  dash = 0; while (text ~ /^- /) { text = substr(text, 3); dash = 1; indent += 2 }
  key = ""; value = text
  if (match(text, /^["']?[A-Za-z0-9_.-]+["']?:( |$)/)) {
    key = substr(text, 1, RLENGTH); value = substr(text, RLENGTH + 1); gsub(/["': ]/, "", key)
  }
  if (key == "ethernets") { base = indent; inside = 1; nicindent = -1; next }
  if (!inside) next
  if (key != "" && !dash && indent <= base) { flush_nic(); inside = 0; next }
  if (nicindent < 0 && key != "") nicindent = indent
  if (key != "" && !dash && indent == nicindent) { flush_nic(); nic = key; dns = 0; mode = ""; next }
  if (match(text, /macaddress["']?: *["']?[0-9A-Fa-f:]+/)) {
    mac = substr(text, RSTART, RLENGTH); sub(/^macaddress["']?: *["']?/, "", mac)
  }
  if (dns && key != "" && !dash && indent <= dnsindent) dns = 0
  if (key == "nameservers") { dns = 1; dnsindent = indent; mode = ""
    if (match(value, /addresses["']?: *\[[^]]*\]/)) { v = substr(value, RSTART, RLENGTH); sub(/^addresses["']?: */, "", v); take(v, "dns") }
    next }
  if (key == "addresses") { mode = dns ? "dns" : "addr"; if (value ~ /[0-9a-fA-F]/) { take(value, mode); mode = "" } next }
  if (key == "gateway4") { gw = clean(value); mode = ""; next }
  if (key == "mtu") { mtu = clean(value); mode = ""; next }
  if (key == "dhcp4") { if (clean(value) ~ /^(true|yes)$/) dhcp = 1; mode = ""; next }
  if (key == "to" || key == "via") {
    mode = ""; if (dash) { to = ""; via = "" }
    if (key == "to") to = clean(value); else via = clean(value)
    if (via != "" && (to == "default" || to == "0.0.0.0/0")) { gw = via; via = ""; to = "" }
    next
  }
  if (dash && text ~ /^\{.*(default|0\.0\.0\.0\/0).*via/) { v = text; sub(/^.*via["']?: */, "", v); sub(/[,}].*$/, "", v); gw = clean(v); next }
  if (key != "") { mode = ""; next }
  if (dash && mode != "") take(text, mode)
}
END { flush_nic() }
