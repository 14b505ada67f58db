//! Patterns that ops carry: .dockerignore and `--exclude` rules, wildcards, `--chmod` clauses.
