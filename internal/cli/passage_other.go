//go:build !linux

package cli

import (
	"errors"
	"net"
)

// knowsPeers is whether the system says whose a connection is.
const knowsPeers = false

func peer(net.Conn) (int, error) { return 0, errors.ErrUnsupported }
