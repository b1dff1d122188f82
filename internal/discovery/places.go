package discovery

import (
	"os"
	"path/filepath"
)

// Places returns where common clients keep their configuration for the person
// whose home directory it is, as far as something is there.
func Places(home, config string) []string {
	var out []string
	for _, p := range []string{
		filepath.Join(config, "Claude", "claude_desktop_config.json"),
		filepath.Join(home, "Library", "Application Support", "Claude", "claude_desktop_config.json"),
		filepath.Join(home, ".claude.json"),
		filepath.Join(home, ".claude", "settings.json"),
		filepath.Join(home, ".cursor", "mcp.json"),
		filepath.Join(config, "Code", "User", "mcp.json"),
		filepath.Join(config, "Code", "User", "settings.json"),
		filepath.Join(home, "Library", "Application Support", "Code", "User", "mcp.json"),
		filepath.Join(home, "Library", "Application Support", "Code", "User", "settings.json"),
		filepath.Join(home, ".codeium", "windsurf", "mcp_config.json"),
		filepath.Join(config, "zed", "settings.json"),
		filepath.Join(home, ".codex", "config.toml"),
		filepath.Join(home, ".gemini", "settings.json"),
	} {
		if info, err := os.Lstat(p); err == nil && info.Mode().IsRegular() {
			out = append(out, p)
		}
	}
	return out
}
