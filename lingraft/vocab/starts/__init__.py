"""First values of new rows, one idea a file: each turns a `Grown` vocabulary into rows for its new ids."""
