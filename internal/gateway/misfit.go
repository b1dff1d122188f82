package gateway

import (
	"crypto/sha256"
	"sync"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/connections/argschema"
	"github.com/countersign/countersign/internal/policy"
)

// CodeMisfit is the code of a call whose arguments are not what its tool's
// accepted definition allows.
const CodeMisfit = "bad_arguments"

// mostSchemas is how many schemas are kept ready.
const mostSchemas = 4_000

// schemas are the schemas of tools, ready to check arguments.
type schemas struct {
	mu    sync.Mutex
	ready map[[sha256.Size]byte]*argschema.Schema
}

func (s *schemas) of(raw []byte) *argschema.Schema {
	key := sha256.Sum256(raw)
	s.mu.Lock()
	found := s.ready[key]
	s.mu.Unlock()
	if found != nil {
		return found
	}
	found = argschema.New(raw)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready == nil || len(s.ready) >= mostSchemas {
		s.ready = map[[sha256.Size]byte]*argschema.Schema{}
	}
	s.ready[key] = found
	return found
}

// misfit refuses a call of an MCP server's tool, or of an operation of an HTTP API,
// whose arguments are not what the definition that a person accepted allows: nobody
// has seen what it does with others.
func (g *Gateway) misfit(call *Call) (verdict, bool) {
	operation := call.Connection.Kind == connections.HTTP && call.Connection.Dialect == ""
	if call.Connection.Kind != connections.MCP && !operation || call.Tool.Builtin || call.message {
		return verdict{}, false
	}
	args := call.Args
	if args == nil {
		args = noArgs
	}
	wrong := g.schemas.of(call.Tool.InputSchema).Check(args)
	if wrong == "" {
		return verdict{}, false
	}
	return verdict{effect: policy.Deny, code: CodeMisfit, reason: wrong, record: audit.Decision{Effect: policy.Deny.String(), Reason: wrong}}, true
}
