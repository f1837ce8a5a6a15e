//! The emulated AWS: a process for the tables and one for everything else, or one for all.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use crate::{agent::cpu_seconds, ministack::MiniStack};

/// An emulator works on one core. On AWS a region's services do not share one, so DynamoDB has a process of its own, unless
/// all are to be in one.
pub struct Emulators {
    /// EventBridge, SQS and S3; DynamoDB as well if there is no other process.
    services: &'static MiniStack,
    tables: Option<MiniStack>,
}

/// CPU-seconds that emulators took, by process.
#[derive(Clone, Copy, Default)]
pub struct Taken {
    pub services: f64,
    /// 0 where there is one process for all.
    pub tables: f64,
}

impl Taken {
    pub fn since(self, before: Taken) -> Taken {
        Taken { services: self.services - before.services, tables: self.tables - before.tables }
    }

    /// Of the process that worked most: nothing goes on faster than it does.
    pub fn most(self) -> f64 {
        self.services.max(self.tables)
    }
}

impl Emulators {
    pub fn start(in_one: bool) -> Emulators {
        Emulators { services: MiniStack::get(), tables: (!in_one).then(MiniStack::start) }
    }

    pub fn are_two(&self) -> bool {
        self.tables.is_some()
    }

    pub fn url(&self) -> String {
        self.services.url()
    }

    /// The address of DynamoDB.
    pub fn tables_url(&self) -> String {
        self.tables.as_ref().unwrap_or(self.services).url()
    }

    fn all(&self) -> impl Iterator<Item = &MiniStack> {
        std::iter::once(self.services).chain(&self.tables)
    }

    pub fn taken(&self) -> Taken {
        let of = |emulator: &MiniStack| cpu_seconds(emulator.process_id());
        Taken { services: of(self.services), tables: self.tables.as_ref().map_or(0.0, of) }
    }

    /// Makes them as they were when they began: receiving slows with all that an emulator holds.
    pub fn reset(&self) {
        for emulator in self.all() {
            let mut stream = TcpStream::connect(("127.0.0.1", emulator.port)).expect("the emulator");
            let request = "POST /_ministack/reset HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(request.as_bytes()).expect("it takes a request");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("it answers");
            assert!(answer.contains(" 200 "), "{answer}");
        }
    }
}
