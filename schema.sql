-- The whole schema. A heading of the form `-- NUMBER name` begins a section, and a section is a migration: a new one is
-- applied at the next start, and a removed one leaves its tables alone. A section that has been applied is never edited;
-- to change it, add a new section with an unused number.
--
-- Core has the numbers 1 to 9 and 90 to 99, the template's features 10 to 89; yours begin at 100. A feature's section has the name of
-- its file. One text serves SQLite and Postgres: columns are text, bigint or bytea, ids are UUIDv7 made by
-- `db::clock::new_id`, times are seconds since 1970.

-- 1 users
create table users (
    id text primary key,
    username text not null unique,
    created_at bigint not null,
    disabled_at bigint
);

-- A user can have one confirmed address, and another that is pending.
create table addresses (
    user_id text not null references users (id) on delete cascade,
    email text not null,
    confirmed_at bigint,
    -- With how many factors the user had authenticated who set it: 1 or 2.
    factors bigint not null default 1
);
create index addresses_by_email on addresses (email);
create unique index addresses_confirmed on addresses (email) where confirmed_at is not null;
create unique index addresses_own on addresses (user_id) where confirmed_at is not null;
create unique index addresses_pending on addresses (user_id) where confirmed_at is null;

create table passwords (
    user_id text primary key references users (id) on delete cascade,
    hash text not null
);

create table recovery_codes (
    code_hash bytea primary key,
    user_id text not null references users (id) on delete cascade
);
create index recovery_codes_by_user on recovery_codes (user_id);

-- 2 sessions
-- `factors` is the most by which the user has authenticated in this session, `confirmed_factors` by how many the last
-- time, at `confirmed_at`.
create table sessions (
    id text primary key,
    token_hash bytea not null unique,
    user_id text not null references users (id) on delete cascade,
    created_at bigint not null,
    seen_at bigint not null,
    confirmed_at bigint not null,
    stay bigint not null,
    address text not null,
    device text not null,
    device_id text not null,
    factors bigint not null,
    confirmed_factors bigint not null
);
create index sessions_by_user on sessions (user_id, id);

-- Browsers that a user has logged in with before.
create table devices (
    id text primary key,
    token_hash bytea not null,
    user_id text not null references users (id) on delete cascade,
    seen_at bigint not null,
    unique (token_hash, user_id)
);
create index devices_by_user on devices (user_id, seen_at);

-- Everything that is secret, expires, and is kept as a hash: links in mails, pending log-ins, challenges.
create table tokens (
    token_hash bytea primary key,
    purpose text not null,
    user_id text references users (id) on delete cascade,
    email text,
    event_id text,
    -- The hash of something that must come back with it.
    binding bytea,
    data text,
    -- How many wrong attempts it has seen.
    wrong bigint,
    expires_at bigint not null
);
create index tokens_by_user on tokens (user_id);
create index tokens_by_time on tokens (expires_at);

-- 3 events
create table events (
    id text primary key,
    user_id text,
    kind text not null,
    about text,
    factors bigint not null,
    created_at bigint not null,
    address text,
    device text
);
create index events_by_user on events (user_id, id);
create index events_by_time on events (created_at);

-- 4 limits
-- Counts by key; times are milliseconds here. A row may outlive its user, whose name can be tried as before.
create table limits (
    key bytea primary key,
    user_id text,
    count bigint not null,
    free_at bigint not null
);
create index limits_by_user on limits (user_id);
create index limits_by_time on limits (free_at) where count = 0;
create index attempts_by_time on limits (free_at) where count > 0;

create table salts (
    name text primary key,
    value bytea not null
);

-- 5 mails
-- The outbox. What a mail says is written when it is sent, so no link waits here.
create table mails (
    id text primary key,
    kind text not null,
    user_id text references users (id) on delete cascade,
    email text not null,
    about text not null,
    created_at bigint not null,
    due_at bigint not null,
    attempts bigint not null,
    failed_at bigint,
    error text
);
create index mails_by_user on mails (user_id);
create index mails_due on mails (due_at) where failed_at is null;

-- 6 indexes
-- Mails to users are sent before those that anybody can ask for.
create index mails_due_to_users on mails (due_at) where failed_at is null and user_id is not null;

-- What has expired is found without a look at all the rest. Limits have no such index: Postgres updates a row faster, again
-- and again, while no index has what changes.
create index sessions_by_age on sessions (created_at);
create index sessions_by_use on sessions (seen_at);
create index devices_by_use on devices (seen_at);
create index mails_given_up on mails (failed_at) where failed_at is not null;

-- 7 mail refusals
-- When a mail was first refused for a reason of its own, and how often it was transmitted without an answer.
alter table mails add column refused_at bigint;
alter table mails add column unconfirmed bigint not null default 0;

-- 8 idempotency keys
-- Acts that must not happen twice. The answer is sealed with what only the request has.
create table idempotency_keys (
    key_hash bytea primary key,
    answer bytea,
    expires_at bigint not null
);
create index idempotency_keys_by_time on idempotency_keys (expires_at);

-- 9 shown codes
-- Recovery codes that were made a moment ago, sealed: the session that made them may see them for ten minutes.
create table shown_codes (
    user_id text primary key references users (id) on delete cascade,
    session_id text not null unique references sessions (id) on delete cascade,
    codes bytea not null,
    created_at bigint not null
);
create index shown_codes_by_time on shown_codes (created_at);

-- 90 permissions
-- Users have permissions by their groups and directly. The group with the name admin is built in.
create table groups (
    id text primary key,
    name text not null unique,
    created_at bigint not null
);

create table group_permissions (
    group_id text not null references groups (id) on delete cascade,
    permission text not null,
    primary key (group_id, permission)
);

create table user_groups (
    user_id text not null references users (id) on delete cascade,
    group_id text not null references groups (id) on delete cascade,
    primary key (user_id, group_id)
);
create index user_groups_by_group on user_groups (group_id, user_id);

create table user_permissions (
    user_id text not null references users (id) on delete cascade,
    permission text not null,
    primary key (user_id, permission)
);

-- `*` stands for all permissions, also those of later versions. No other group has it.
insert into groups (id, name, created_at) values ('admin', 'admin', 0);
insert into group_permissions (group_id, permission) values ('admin', '*');

-- 91 actors
-- The user who did it, if that is not the one to whom it happened.
alter table events add column actor_id text;

-- 92 invitation links
-- Links with which people may sign up. One that is mailed has no token before its mail is written.
create table invitations (
    id text primary key,
    token_hash bytea unique,
    email text,
    group_id text references groups (id) on delete cascade,
    uses bigint not null,
    used bigint not null,
    -- Null if it was made by a command.
    created_by text references users (id) on delete cascade,
    created_at bigint not null,
    expires_at bigint not null
);
create index invitations_by_user on invitations (created_by);
create index invitations_by_group on invitations (group_id);
create index invitations_by_time on invitations (expires_at);

-- 93 addresses
create index addresses_by_user on addresses (user_id);

-- 10 notes
create table notes (
    id text primary key,
    user_id text not null references users (id) on delete cascade,
    text text not null,
    created_at bigint not null,
    updated_at bigint not null
);
create index notes_by_user on notes (user_id, id);

-- 11 session_data
-- Belongs to a session, or to a visitor who has the token.
create table session_data (
    id text primary key,
    session_id text unique references sessions (id) on delete cascade,
    token_hash bytea unique,
    data text not null,
    expires_at bigint not null
);

-- 12 two_factor
-- Authenticator apps. The secret is sealed. Until it is confirmed it authenticates nobody.
create table totp (
    user_id text primary key references users (id) on delete cascade,
    secret bytea not null,
    created_at bigint not null,
    confirmed_at bigint,
    last_step bigint not null
);

-- 13 passkeys
create table passkeys (
    id text primary key,
    user_id text not null references users (id) on delete cascade,
    credential_id bytea not null unique,
    name text not null,
    credential text not null,
    created_at bigint not null,
    used_at bigint
);
create index passkeys_by_user on passkeys (user_id, id);

-- 14 session_data
create index session_data_by_time on session_data (expires_at) where token_hash is not null;

-- 15 two_factor
create index totp_by_age on totp (created_at) where confirmed_at is null;

-- 16 two_factor
-- The session that has begun the set-up. No other may see the secret.
alter table totp add column session_id text;

-- 17 notes
-- When its writer deleted it, in milliseconds since 1970. It can be restored for ten minutes.
alter table notes add column deleted_at bigint;
create index notes_deleted on notes (deleted_at) where deleted_at is not null;

-- 20 admin
-- How the site was used on a day that is over, by the time at which it began.
create table daily_counts (
    day bigint not null,
    kind text not null,
    count bigint not null,
    primary key (day, kind)
);

-- 22 admin_users
-- People are found by how their name or address begins, in the order of its bytes, and by whether they are disabled.
create index users_by_name on users (username collate "binary");
create index addresses_by_beginning on addresses (email collate "binary", user_id);
create index users_enabled on users (id) where disabled_at is null;
create index users_disabled on users (id) where disabled_at is not null;

-- 23 admin_audit
create index events_by_kind on events (kind, id);
create index events_by_actor on events (actor_id, id, kind) where actor_id is not null;

-- 25 admin_mails
-- Lists of what waits and of what was given up, newest first.
create index mails_waiting_by_id on mails (id) where failed_at is null;
create index mails_given_up_by_id on mails (id) where failed_at is not null;
