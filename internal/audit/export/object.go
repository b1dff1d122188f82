package export

import "encoding/json/jsontext"

// The objects of OCSF, reduced to what is set here. The fields of each class
// stand in one struct; empty ones are left out.

type ocsfEvent struct {
	ActivityID   int            `json:"activity_id"`
	ActivityName string         `json:"activity_name"`
	CategoryUID  int            `json:"category_uid"`
	CategoryName string         `json:"category_name"`
	ClassUID     int            `json:"class_uid"`
	ClassName    string         `json:"class_name"`
	TypeUID      int64          `json:"type_uid"`
	TypeName     string         `json:"type_name"`
	Time         int64          `json:"time"` // milliseconds since 1970
	SeverityID   int            `json:"severity_id"`
	Severity     string         `json:"severity"`
	StatusID     int            `json:"status_id"`
	Status       string         `json:"status"`
	StatusCode   string         `json:"status_code,omitzero"`
	StatusDetail string         `json:"status_detail,omitzero"`
	Message      string         `json:"message"`
	Duration     int64          `json:"duration,omitzero"` // milliseconds
	Count        int64          `json:"count,omitzero"`
	Metadata     ocsfMetadata   `json:"metadata"`
	Actor        *ocsfActor     `json:"actor,omitzero"`
	User         *ocsfUser      `json:"user,omitzero"`
	Service      *ocsfNamed     `json:"service,omitzero"`
	Session      *ocsfSession   `json:"session,omitzero"`
	Policies     []ocsfPolicy   `json:"policies,omitzero"`
	SrcEndpoint  *ocsfEndpoint  `json:"src_endpoint,omitzero"`
	API          *ocsfAPI       `json:"api,omitzero"`
	HTTPRequest  *ocsfRequest   `json:"http_request,omitzero"`
	HTTPResponse *ocsfResponse  `json:"http_response,omitzero"`
	Resources    []ocsfResource `json:"resources,omitzero"`
	FindingInfo  *ocsfFinding   `json:"finding_info,omitzero"`
	Comment      string         `json:"comment,omitzero"`
	ActionID     int            `json:"action_id,omitzero"`
	Action       string         `json:"action,omitzero"`
	DispositonID int            `json:"disposition_id,omitzero"`
	Disposition  string         `json:"disposition,omitzero"`
	Policy       *ocsfPolicy    `json:"policy,omitzero"`
	AIModel      *ocsfModel     `json:"ai_model,omitzero"`
	AIMessage    *ocsfMessage   `json:"message_context,omitzero"`
	Trace        *ocsfTrace     `json:"trace,omitzero"`
	Unmapped     ocsfUnmapped   `json:"unmapped"`
}

type ocsfMetadata struct {
	Version     string      `json:"version"`
	Product     ocsfProduct `json:"product"`
	UID         string      `json:"uid"`
	EventCode   string      `json:"event_code"`
	Correlation string      `json:"correlation_uid,omitzero"`
	Sequence    int64       `json:"sequence,omitzero"` // in its lane of the log
	LogName     string      `json:"log_name"`
	LogVersion  string      `json:"log_version"`
	Labels      []string    `json:"labels,omitzero"`
	Profiles    []string    `json:"profiles,omitzero"`
}

type ocsfProduct struct {
	Name    string `json:"name"`
	Vendor  string `json:"vendor_name"`
	Version string `json:"version,omitzero"`
}

type ocsfActor struct {
	User    *ocsfUser    `json:"user,omitzero"`
	Session *ocsfSession `json:"session,omitzero"`
	AppName string       `json:"app_name,omitzero"`
}

type ocsfUser struct {
	Name       string      `json:"name,omitzero"`
	UID        string      `json:"uid,omitzero"`
	TypeID     int         `json:"type_id"`
	Type       string      `json:"type"`
	Credential string      `json:"credential_uid,omitzero"`
	Groups     []ocsfNamed `json:"groups,omitzero"`
}

type ocsfNamed struct {
	Name string `json:"name,omitzero"`
	UID  string `json:"uid,omitzero"`
}

type ocsfSession struct {
	UID    string `json:"uid"`
	Issuer string `json:"issuer"`
}

type ocsfPolicy struct {
	Name    string `json:"name"`
	Type    string `json:"type"`
	Version string `json:"version,omitzero"`
}

type ocsfEndpoint struct {
	IP   string `json:"ip,omitzero"`
	Name string `json:"name,omitzero"`
}

type ocsfAPI struct {
	Operation string         `json:"operation"`
	Service   *ocsfNamed     `json:"service,omitzero"`
	Request   *ocsfUID       `json:"request,omitzero"`
	Response  *ocsfAPIAnswer `json:"response,omitzero"`
}

type ocsfUID struct {
	UID string `json:"uid"`
}

type ocsfAPIAnswer struct {
	Code    int    `json:"code,omitzero"`
	Error   string `json:"error,omitzero"`
	Message string `json:"error_message,omitzero"`
}

type ocsfRequest struct {
	UserAgent string `json:"user_agent"`
}

type ocsfResponse struct {
	Code   int   `json:"code"`
	Length int64 `json:"body_length,omitzero"`
}

type ocsfResource struct {
	Name      string     `json:"name"`
	Type      string     `json:"type"`
	Namespace string     `json:"namespace,omitzero"`
	Owner     *ocsfOwner `json:"owner,omitzero"`
}

type ocsfOwner struct {
	Name string `json:"name"`
}

type ocsfFinding struct {
	UID      string   `json:"uid"`
	Title    string   `json:"title,omitzero"`
	Desc     string   `json:"desc,omitzero"`
	Types    []string `json:"types,omitzero"`
	Modified int64    `json:"modified_time"`
}

type ocsfModel struct {
	Name     string `json:"name"`
	Provider string `json:"ai_provider"`
}

type ocsfMessage struct {
	Service    ocsfNamed `json:"service"`
	Prompt     int64     `json:"prompt_tokens"`
	Completion int64     `json:"completion_tokens"`
	Total      int64     `json:"total_tokens"`
}

type ocsfTrace struct {
	UID string `json:"uid"`
}

// ocsfUnmapped carries the event whole, in the bytes that the log's tree is
// built over, for what OCSF has no attribute for.
type ocsfUnmapped struct {
	Event    jsontext.Value    `json:"event"`
	Lane     int64             `json:"lane"`
	Payloads map[string]string `json:"payloads,omitzero"`
}
