//! The NBD client: what a server sends, from its greeting on.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use memnbd::block::{Chunk, Command, Span};
use memnbd::device::{Answer, Cancelled, Chunks, Device, Order};
use memnbd::remote::Remote;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::runtime::{Builder, Runtime};

/// How long a conversation may take. One that ends takes milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// The longest span of a command, in bytes.
const MAX_SPAN: u64 = 64 << 10;

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Builder::new_current_thread().enable_all().build().unwrap())
}

/// The first byte chooses how many commands there are at once. The rest is sent, and the server hangs up.
/// Every command must end, and what is answered must be what was asked for.
pub(crate) fn client(data: &[u8]) {
    let [count, sent @ ..] = data else { return };
    let sent = sent.to_vec();
    runtime().block_on(async {
        let (stream, mut server) = duplex(64 << 10);
        let (reader, writer) = tokio::io::split(stream);
        let serving = tokio::spawn(async move {
            // The client may hang up at any time.
            let _ = server.write_all(&sent).await;
            let _ = server.shutdown().await;
            let _ = server.read_to_end(&mut Vec::new()).await;
        });
        let talking = async {
            let Ok(disk) = Remote::connect(reader, writer, "disk").await else { return };
            let run = async |number: u64| {
                if number <= u64::from(count % 8) {
                    execute(disk.clone(), number).await;
                }
            };
            // In this task, so that all are under way before the first reply is received.
            tokio::join!(run(0), run(1), run(2), run(3), run(4), run(5), run(6), run(7));
            disk.disconnect().await;
        };
        let talked = tokio::time::timeout(LIMIT, talking).await;
        assert!(talked.is_ok(), "a command does not end");
        serving.abort();
    });
}

/// Executes one of several commands.
async fn execute(disk: Arc<Remote>, number: u64) {
    let size = disk.geometry().size;
    let offset = (number * 512).min(size);
    let span = Span { offset, length: (size - offset).min(MAX_SPAN) };
    if span.length == 0 {
        return;
    }
    let command = match number {
        0 | 4 => Command::Extents { span, limit: 5 },
        1 | 5 | 6 => Command::Read { span },
        2 => Command::Flush,
        _ => Command::Zero { span, fua: true, keep_allocated: false, fast: false },
    };
    let order = Order::new(command, Default::default(), Cancelled::default());
    match (command, disk.execute(order, None).await) {
        (_, Err(error)) => {
            let message = error.message.unwrap_or_default();
            assert!(!message.contains(char::is_control), "{message:?}");
        }
        (Command::Read { span }, Ok(Answer::Read(content))) => {
            let length: u64 = content
                .chunks()
                .map(|chunk| match chunk {
                    Chunk::Data(bytes) => bytes.len() as u64,
                    Chunk::Hole(length) => length.into(),
                })
                .sum();
            assert_eq!(length, span.length);
        }
        (Command::Extents { span, limit }, Ok(Answer::Extents(extents))) => {
            let list = extents.as_slice();
            assert!((1..=limit).contains(&list.len()));
            assert!(list.iter().all(|extent| extent.length > 0));
            assert!(list.iter().map(|extent| extent.length).sum::<u64>() <= span.length);
        }
        (Command::Flush | Command::Zero { .. }, Ok(Answer::Done)) => {}
        (command, Ok(_)) => panic!("{command:?} got the answer of another command"),
    }
}
