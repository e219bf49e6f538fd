"""Prints the rows of a Parquet file as JSON lines, as pyarrow reads them; bytes as hex."""

import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq

file = pq.ParquetFile(sys.argv[1])
schema = file.schema_arrow
assert schema.field("ts").type == pa.timestamp("ns", tz="UTC"), schema
assert schema.field("stream").type == pa.int32(), schema
assert schema.field("line").type == pa.binary(), schema
metadata_type = schema.field("metadata").type
assert pa.types.is_map(metadata_type), schema
assert (metadata_type.key_type, metadata_type.item_type) == (pa.string(), pa.string()), schema
assert schema.field("offset").type == pa.int64(), schema
keys = [name for name in schema.names if name.startswith("meta.")]
assert all(schema.field(key).type == pa.string() for key in keys), schema
table = file.read()
columns = {name: table.column(name) for name in schema.names}
columns["ts"] = columns["ts"].cast(pa.int64())
columns = {name: column.to_pylist() for name, column in columns.items()}
for row in range(table.num_rows):
    metadata = {key[5:]: columns[key][row] for key in keys if columns[key][row] is not None}
    metadata.update(columns["metadata"][row])
    print(json.dumps({
        "ts": columns["ts"][row],
        "stream": columns["stream"][row],
        "line": columns["line"][row].hex(),
        "metadata": metadata,
        "offset": columns["offset"][row],
    }))
