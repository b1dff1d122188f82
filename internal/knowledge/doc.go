// Package knowledge keeps the documents of retrieval connections whose engine is
// Countersign itself (dialect embedded), each with its owner, readers,
// classification and source.
//
// It promises:
//
//   - A document is put and removed in one transaction with an event that names
//     it by id and digest and says who may read it.
//   - Search and Get return nothing that none of the given readers may read.
//     What is found, and its order, depends on the documents that may be read and
//     on nothing else: no word statistics over others, no totals.
//   - What an agent searches for is words; nothing of it is taken for the
//     syntax of the engine (FTS5 on SQLite, text search on PostgreSQL).
//
// It knows nothing of agents: gateway/retrieval decides whose readers they are,
// and looks at every document again. gateway/retrieval and server may import it.
package knowledge
