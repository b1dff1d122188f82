package local_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/secrets/provider/local"
)

var ctx = context.Background()

func TestOnlyVariablesThatAreMeantForIt(t *testing.T) {
	t.Setenv("COUNTERSIGN_SECRET_OPENAI", "value-in-the-environment")
	t.Setenv("OTHER", "not-for-you")
	if v, _, err := (local.Env{}).Read(ctx, "COUNTERSIGN_SECRET_OPENAI"); err != nil || string(v.Expose()) != "value-in-the-environment" {
		t.Errorf("%v", err)
	}
	for _, name := range []string{"OTHER", "PATH", "COUNTERSIGN_KEY", "COUNTERSIGN_SECRET_", "", "COUNTERSIGN_SECRET_a"} {
		if _, _, err := (local.Env{}).Read(ctx, name); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := (local.Env{}).Read(ctx, "COUNTERSIGN_SECRET_NOT_SET"); fault.KindOf(err) != fault.Unavailable {
		t.Error(err)
	}
}

func TestNoFileOutsideTheDirectory(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	for path, text := range map[string]string{filepath.Join(outside, "passwd"): "not-for-you", filepath.Join(dir, "key"): "value-in-a-file\n", filepath.Join(dir, "empty"): "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"abs": filepath.Join(outside, "passwd"), "rel": "../" + filepath.Base(outside) + "/passwd"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	f := local.File{Dir: dir}
	if v, _, err := f.Read(ctx, "key"); err != nil || string(v.Expose()) != "value-in-a-file" {
		t.Errorf("%q, %v", v.Expose(), err)
	}
	for _, name := range []string{"abs", "rel", "empty", "nothing", "."} {
		if v, _, err := f.Read(ctx, name); err == nil {
			t.Errorf("%s: %q", name, v.Expose())
		}
	}
	for _, name := range []string{"../x", "/etc/passwd", "", "a/../../x"} {
		if err := f.Check(name); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
