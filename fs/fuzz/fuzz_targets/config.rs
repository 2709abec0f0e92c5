//! The configuration file: any text is a checked configuration or an error that names the file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skfs::config::Config;
use std::path::Path;

fuzz_target!(|text: &str| {
    match Config::parse(text, Path::new("fuzz.toml")) {
        Ok(config) => {
            config.check().expect("what is parsed is checked");
            let written = toml::to_string(&config).expect("what was read can be written");
            let read =
                Config::parse(&written, Path::new("again.toml")).expect("what was written can be read");
            assert_eq!(read, config);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
