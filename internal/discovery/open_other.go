//go:build !unix

package discovery

import "os"

func open(p string) (*os.File, error) { return os.Open(p) }
