// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

// Brings the contracts that ship into this project. Tests deploy them from the compiler's output, never by import, so
// that only these two are compiled with the shipped settings.
import {ChannelEscrow} from "microwallet/escrow/contract/ChannelEscrow.sol";
import {TestUSDC} from "microwallet/devnet/contract/TestUSDC.sol";
