// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IChannelEscrow} from "microwallet/escrow/contract/IChannelEscrow.sol";
import {Fixture} from "../src/Fixture.sol";

/// @notice Gas of each call in steady state, as a transaction of its own, against the figures in .gas-snapshot. The
/// figures of measure_gas.py come from receipts; these here are to notice a change.
/// forge-config: default.isolate = true
contract GasTest is Fixture {
    IChannelEscrow.ChannelDescriptor private _used;
    IChannelEscrow.ChannelDescriptor private _usedNative;

    function setUp() public override {
        super.setUp();
        usdc.mint(payee, 1);
        vm.deal(payee, 1);
        _opened(address(usdc));
        _opened(NATIVE);
        _used = _salted(address(usdc), "used");
        _usedNative = _salted(NATIVE, "used");
        _open(_used, DEPOSIT);
        _open(_usedNative, DEPOSIT);
        _call(payee, _settleData(_used, 1_000, 1_000));
    }

    function _salted(address token, bytes32 seed) private view returns (IChannelEscrow.ChannelDescriptor memory) {
        return IChannelEscrow.ChannelDescriptor(payer, payee, token, keccak256(abi.encode(seed)), signer);
    }

    function test_gas_open() public {
        _open(_salted(address(usdc), "new"), DEPOSIT);
        vm.snapshotGasLastCall("escrow", "open with a standing allowance");
    }

    function test_gas_open_native() public {
        _open(_salted(NATIVE, "new"), DEPOSIT);
        vm.snapshotGasLastCall("escrow", "open with native coin");
    }

    function test_gas_open_with_authorization() public {
        _call(stranger, _openAuthorized(_salted(address(usdc), "new")));
        vm.snapshotGasLastCall("escrow", "open with an EIP-3009 authorization");
    }

    function test_gas_top_up() public {
        _call(payer, abi.encodeCall(IChannelEscrow.topUp, (_used, DEPOSIT)));
        vm.snapshotGasLastCall("escrow", "top up");
    }

    function test_gas_settle() public {
        _call(payee, _settleData(_used, 1_234_567, 1_234_567));
        vm.snapshotGasLastCall("escrow", "settle");
    }

    function test_gas_close() public {
        _call(payee, _closeData(_used, 1_234_567, 1_234_567));
        vm.snapshotGasLastCall("escrow", "close with refund");
    }

    function test_gas_close_native() public {
        _call(payee, _closeData(_usedNative, 1_234_567, 1_234_567));
        vm.snapshotGasLastCall("escrow", "close with refund in native coin");
    }

    function test_gas_request_close() public {
        _call(payer, abi.encodeCall(IChannelEscrow.requestClose, (_used)));
        vm.snapshotGasLastCall("escrow", "request close");
    }

    function test_gas_withdraw() public {
        _call(payer, abi.encodeCall(IChannelEscrow.requestClose, (_used)));
        vm.warp(START + 900);
        _call(payer, abi.encodeCall(IChannelEscrow.withdraw, (_used)));
        vm.snapshotGasLastCall("escrow", "withdraw");
    }

    function test_gas_settle_batch_of_two() public {
        _checkBatch(2, "settle a batch of two");
    }

    function test_gas_settle_batch_of_ten() public {
        _checkBatch(10, "settle a batch of ten");
    }

    function _checkBatch(uint256 size, string memory name) private {
        IChannelEscrow.Capture[] memory items = new IChannelEscrow.Capture[](size);
        for (uint256 i = 0; i < size; ++i) {
            IChannelEscrow.ChannelDescriptor memory channel = _salted(address(usdc), bytes32(i));
            _open(channel, DEPOSIT);
            _call(payee, _settleData(channel, 1_000, 1_000));
            items[i] = _item(channel, 1_234_567, 1_234_567);
        }
        _call(payee, abi.encodeCall(IChannelEscrow.settleBatch, (items)));
        vm.snapshotGasLastCall("escrow", name);
    }
}
