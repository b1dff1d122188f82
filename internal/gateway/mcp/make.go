package mcp

import (
	"bytes"
	"context"
	"fmt"
	"net/http"

	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
)

// Make calls a tool without a client: it goes the way of every call from the
// beginning, in the name of those whom resume names.
func (f *Front) Make(ctx context.Context, w http.ResponseWriter, resume *gateway.Resumed, connection, tool string, args []byte) error {
	name := connection + between + tool
	body := fmt.Appendf(nil, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%s,"arguments":%s,"_meta":{%q:%q,%q:{"name":"countersign","version":%s},%q:{}}}}`,
		wire.Quote(name), args, wire.MetaVersion, wire.Modern, wire.MetaClient, wire.Quote(f.o.Version), wire.MetaCapabilities)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "/mcp", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header = http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}, "User-Agent": {"countersign undo"},
		wire.HeaderVersion: {wire.Modern}, wire.HeaderMethod: {"tools/call"}, wire.HeaderName: {wire.Encode(name)}}
	f.Resume(w, r, resume)
	return nil
}
