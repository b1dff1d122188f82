// Package discovery reads what is there already on a machine or in a
// repository: MCP configuration files of common clients, .env files and CI
// settings. It finds agents, connections and the names of credentials.
//
// It promises:
//
//   - No value leaves it: of a credential it gives the name, where it stands, and
//     a digest under a key of this scan (HMAC-SHA256), by which the same value in
//     two places is recognised.
//   - Files are hostile: read up to a size, never through a symbolic link or out of
//     anything but a regular file; directories are walked to a depth and number.
//   - What it cannot read is a problem in the result, not an error.
//
// It is pure but for reading files: no network, no program is started. Only the
// command line imports it.
package discovery
