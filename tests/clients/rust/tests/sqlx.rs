//! Applications written for pgvector, with the crates `pgvector` and `sqlx`, unchanged.

use std::fmt::Debug;

use insitu_clients::{
    DIMS, ROWS, SETTINGS, Value, address, assert_index_scan, assert_recall, clustered, hits,
    nearest_sql,
};
use pgvector::{Bit, HalfVector, SparseVector, Vector};
use postgres::config::Host;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Decode, Encode, Executor, PgConnection, Postgres, Type};

/// A pool whose connections prefer indexes.
async fn connect() -> PgPool {
    let address = address();
    let mut options = PgConnectOptions::new_without_pgpass()
        .port(address.get_ports()[0])
        .username(address.get_user().unwrap())
        .database(address.get_dbname().unwrap());
    options = match &address.get_hosts()[0] {
        Host::Tcp(name) => options.host(name),
        Host::Unix(directory) => options.socket(directory),
    };
    PgPoolOptions::new()
        .max_connections(2)
        .after_connect(|conn: &mut PgConnection, _| {
            Box::pin(async move { conn.execute(SETTINGS).await.map(|_| ()) })
        })
        .connect_with(options)
        .await
        .unwrap()
}

/// Writes rows, reads them, and asks for the nearest by each operator.
async fn write_read_and_search<T>()
where
    T: Value + PartialEq + Debug + Send + Sync + Unpin + 'static,
    T: for<'q> Encode<'q, Postgres> + for<'r> Decode<'r, Postgres> + Type<Postgres>,
{
    let pool = connect().await;
    let (table, kind) = (format!("sqlx_{}", T::TYPE), T::TYPE);
    let create = format!("CREATE TABLE {table} (id bigint PRIMARY KEY, emb {kind}({DIMS}))");
    pool.execute(create.as_str()).await.unwrap();
    let (rows, queries) = clustered();

    let insert = format!("INSERT INTO {table} VALUES ($1, $2)");
    let mut transaction = pool.begin().await.unwrap();
    for (id, row) in rows.iter().enumerate() {
        let insert = sqlx::query(&insert).bind(id as i64).bind(T::new(row));
        insert.execute(&mut *transaction).await.unwrap();
    }
    transaction.commit().await.unwrap();

    let sql = format!("SELECT id, emb FROM {table} ORDER BY id");
    let read: Vec<(i64, T)> = sqlx::query_as(&sql).fetch_all(&pool).await.unwrap();
    assert_eq!(read.len(), ROWS);
    for (id, value) in read {
        assert_eq!(value, T::new(&rows[id as usize]));
    }

    for operator in T::OPERATORS {
        let (name, nearest) = (operator.name, nearest_sql(&table, operator));
        let index = format!("{table}_{name}");
        let create = format!("CREATE INDEX {index} ON {table} USING hnsw (emb {kind}_{name}_ops)");
        pool.execute(create.as_str()).await.unwrap();
        let explain = format!("EXPLAIN {nearest}");
        let plan = sqlx::query_scalar(&explain).bind(T::new(&queries[0]));
        assert_index_scan(&plan.fetch_all(&pool).await.unwrap(), &index);
        let mut found = 0;
        for query in &queries {
            let nearest = sqlx::query_as(&nearest).bind(T::new(query));
            let answer: Vec<(i64, f64)> = nearest.fetch_all(&pool).await.unwrap();
            found += hits(&answer, &rows, query, operator.distance);
        }
        assert_recall(found);
    }
}

#[tokio::test]
async fn vectors_are_written_read_and_found() {
    write_read_and_search::<Vector>().await;
}

#[tokio::test]
async fn half_vectors_are_written_read_and_found() {
    write_read_and_search::<HalfVector>().await;
}

#[tokio::test]
async fn sparse_vectors_are_written_read_and_found() {
    write_read_and_search::<SparseVector>().await;
}

#[tokio::test]
async fn bit_strings_are_written_read_and_found() {
    write_read_and_search::<Bit>().await;
}

#[tokio::test]
async fn nulls_arrays_and_averages() {
    let vectors = vec![Vector::from(vec![1.0, 2.0]), Vector::from(vec![4.0, 5.0])];
    let halves = vec![
        HalfVector::from_f32_slice(&[0.5]),
        HalfVector::from_f32_slice(&[-2.0]),
    ];
    let sql = "SELECT $1, avg(u), NULL::sparsevec, $2 FROM unnest($1) u";
    let row: (Vec<Vector>, Vector, Option<SparseVector>, Vec<HalfVector>) = sqlx::query_as(sql)
        .bind(&vectors)
        .bind(&halves)
        .fetch_one(&connect().await)
        .await
        .unwrap();
    assert_eq!(row, (vectors, Vector::from(vec![2.5, 3.5]), None, halves));
}

#[tokio::test]
async fn rows_are_copied_as_text() {
    let mut conn = connect().await.acquire().await.unwrap();
    conn.execute("CREATE TEMP TABLE copied (v vector(2), h halfvec(2), s sparsevec(3), b bit(2))")
        .await
        .unwrap();
    let mut copy = conn.copy_in_raw("COPY copied FROM STDIN").await.unwrap();
    copy.send("[1,2.5]\t[-3,4]\t{2:0.5}/3\t10\n".as_bytes())
        .await
        .unwrap();
    assert_eq!(copy.finish().await.unwrap(), 1);
    let row: (Vector, HalfVector, SparseVector, Bit) = sqlx::query_as("SELECT * FROM copied")
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    let expected = (
        Vector::from(vec![1.0, 2.5]),
        HalfVector::from_f32_slice(&[-3.0, 4.0]),
        SparseVector::from_dense(&[0.0, 0.5, 0.0]),
        Bit::new(&[true, false]),
    );
    assert_eq!(row, expected);
}

#[tokio::test]
async fn errors_leave_the_connection_usable() {
    let mut conn = connect().await.acquire().await.unwrap();
    conn.execute("CREATE TEMP TABLE short (emb halfvec(3))")
        .await
        .unwrap();
    let insert = sqlx::query("INSERT INTO short VALUES ($1)");
    let error = insert
        .bind(HalfVector::from_f32_slice(&[1.0]))
        .execute(&mut *conn)
        .await;
    let error = error.unwrap_err().into_database_error().unwrap();
    assert_eq!(error.code().as_deref(), Some("22000"));
    assert_eq!(error.message(), "expected 3 dimensions, not 1");
    let count: (i64,) = sqlx::query_as("SELECT count(*) FROM short")
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    assert_eq!(count, (0,));
}
