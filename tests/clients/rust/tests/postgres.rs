//! Applications written for pgvector, with the crates `pgvector` and `postgres`, unchanged.

use std::collections::HashMap;
use std::fmt::Debug;

use insitu_clients::{
    DIMS, SETTINGS, Value, address, assert_index_scan, assert_recall, clustered, hits, nearest_sql,
};
use pgvector::{Bit, HalfVector, SparseVector, Vector};
use postgres::binary_copy::{BinaryCopyInWriter, BinaryCopyOutIter};
use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::{FromSqlOwned, ToSql, Type};
use postgres::{Client, NoTls};

fn connect() -> Client {
    let mut client = address().connect(NoTls).unwrap();
    client.batch_execute(SETTINGS).unwrap();
    client
}

/// The type as the server describes it: the crate has no constants for an extension's types.
fn type_of(client: &mut Client, name: &str) -> Type {
    let statement = client.prepare(&format!("SELECT NULL::{name}")).unwrap();
    statement.columns()[0].type_().clone()
}

/// Writes rows by INSERT and by COPY, reads them by SELECT and by COPY, and asks for the nearest by each operator.
fn write_read_and_search<T>()
where
    T: Value + ToSql + FromSqlOwned + PartialEq + Debug + Sync,
{
    let mut client = connect();
    let (table, kind) = (format!("postgres_{}", T::TYPE), T::TYPE);
    let create = format!("CREATE TABLE {table} (id bigint PRIMARY KEY, emb {kind}({DIMS}))");
    client.batch_execute(&create).unwrap();
    let (rows, queries) = clustered();
    let values: Vec<T> = rows.iter().map(|row| T::new(row)).collect();

    let half = rows.len() / 2;
    let insert = client
        .prepare(&format!("INSERT INTO {table} VALUES ($1, $2)"))
        .unwrap();
    for (id, value) in values[..half].iter().enumerate() {
        assert_eq!(client.execute(&insert, &[&(id as i64), value]).unwrap(), 1);
    }
    let types = [Type::INT8, type_of(&mut client, kind)];
    let copy = client
        .copy_in(&format!("COPY {table} FROM STDIN (FORMAT binary)"))
        .unwrap();
    let mut writer = BinaryCopyInWriter::new(copy, &types);
    for (id, value) in values.iter().enumerate().skip(half) {
        writer.write(&[&(id as i64), value]).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), (rows.len() - half) as u64);

    let read = client
        .query(&format!("SELECT emb FROM {table} ORDER BY id"), &[])
        .unwrap();
    assert_eq!(
        read.iter()
            .map(|row| row.get::<_, T>(0))
            .collect::<Vec<_>>(),
        values
    );
    let sql = format!("COPY (SELECT id, emb FROM {table} ORDER BY id) TO STDOUT (FORMAT binary)");
    let copied = BinaryCopyOutIter::new(client.copy_out(&sql).unwrap(), &types);
    let copied: Vec<T> = copied.map(|row| Ok(row.get(1))).collect().unwrap();
    assert_eq!(copied, values);

    for operator in T::OPERATORS {
        let (name, nearest) = (operator.name, nearest_sql(&table, operator));
        let index = format!("{table}_{name}");
        let create = format!("CREATE INDEX {index} ON {table} USING hnsw (emb {kind}_{name}_ops)");
        client.batch_execute(&create).unwrap();
        let plan = client
            .query(&format!("EXPLAIN {nearest}"), &[&T::new(&queries[0])])
            .unwrap();
        assert_index_scan(
            &plan.iter().map(|row| row.get(0)).collect::<Vec<_>>(),
            &index,
        );
        let statement = client.prepare(&nearest).unwrap();
        assert_eq!(statement.params()[0].name(), kind);
        let found = |query: &Vec<f32>| {
            let found = client.query(&statement, &[&T::new(query)]).unwrap();
            let found: Vec<_> = found.iter().map(|row| (row.get(0), row.get(1))).collect();
            hits(&found, &rows, query, operator.distance)
        };
        assert_recall(queries.iter().map(found).sum());
    }
}

#[test]
fn vectors_are_written_read_and_found() {
    write_read_and_search::<Vector>();
}

#[test]
fn half_vectors_are_written_read_and_found() {
    write_read_and_search::<HalfVector>();
}

#[test]
fn sparse_vectors_are_written_read_and_found() {
    write_read_and_search::<SparseVector>();
}

#[test]
fn bit_strings_are_written_read_and_found() {
    write_read_and_search::<Bit>();
}

#[test]
fn the_server_reads_what_the_client_meant() {
    let row = connect()
        .query_one(
            "SELECT $1::vector::text, $2::halfvec::text, $3::sparsevec::text, $4::bit(3)::text",
            &[
                &Vector::from(vec![1.0, 2.5, -3e-9]),
                &HalfVector::from_f32_slice(&[1.0, 2.5, -0.25]),
                &SparseVector::from_map(&HashMap::from([(0, 1.5), (4, -2.0)]), 5),
                &Bit::new(&[true, false, true]),
            ],
        )
        .unwrap();
    let texts: Vec<&str> = (0..4).map(|column| row.get(column)).collect();
    assert_eq!(
        texts,
        ["[1,2.5,-3e-09]", "[1,2.5,-0.25]", "{1:1.5,5:-2}/5", "101"]
    );
}

#[test]
fn nulls_arrays_and_averages() {
    let vectors = vec![
        Some(Vector::from(vec![1.0, 2.0])),
        None,
        Some(Vector::from(vec![4.0, 5.0])),
    ];
    let row = connect()
        .query_one(
            "SELECT $1, avg(u), NULL::halfvec, sum(u)::sparsevec FROM unnest($1::vector[]) u",
            &[&vectors],
        )
        .unwrap();
    assert_eq!(row.get::<_, Vec<Option<Vector>>>(0), vectors);
    assert_eq!(row.get::<_, Vector>(1), Vector::from(vec![2.5, 3.5]));
    assert_eq!(row.get::<_, Option<HalfVector>>(2), None);
    assert_eq!(
        row.get::<_, SparseVector>(3),
        SparseVector::from_dense(&[5.0, 7.0])
    );
}

#[test]
fn errors_leave_the_connection_usable() {
    let mut client = connect();
    client
        .batch_execute("CREATE TEMP TABLE short (emb vector(3))")
        .unwrap();
    let vectors = [
        (vec![1.0, 2.0], "expected 3 dimensions, not 2"),
        (vec![1.0, 2.0, f32::NAN], "NaN not allowed in vector"),
    ];
    for (vector, message) in vectors {
        let error = client
            .execute("INSERT INTO short VALUES ($1)", &[&Vector::from(vector)])
            .unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(
            (error.code(), error.message()),
            (&SqlState::DATA_EXCEPTION, message)
        );
    }
    assert_eq!(client.query("SELECT FROM short", &[]).unwrap().len(), 0);
}
